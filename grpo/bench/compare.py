"""A protocol's runs put together: beside the published points, and variant against variant. Pure."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from grpo.bench import intervals
from grpo.bench.curves import band
from grpo.bench.measured import Measured, Triple
from grpo.bench.protocol import Point, Published


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What somebody charges, given by the user: none is published for Bedrock's RFT."""

    hour: float = 0.0
    """Of training, by the wall-clock."""
    million_tokens: float = 0.0
    """Sampled in training."""

    def cost(self, run: Measured) -> float | None:
        """Of the same job: our hours and tokens at these prices; None where a price, or the time for it, is missing."""
        if not run.ended or not (self.hour or self.million_tokens) or (self.hour and run.seconds is None):
            return None
        return (run.seconds or 0.0) / 3600 * self.hour + run.tokens / 1e6 * self.million_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A published point, and ours at the same place; None where no run got there."""

    point: Point
    variant: str
    ours: Triple | None
    """Of several runs the mean, the lowest and the highest; of one its own interval, where it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A variant against the first one, both over the same seeds and the same number of steps."""

    variant: str
    seeds: int
    test: float
    """Final test reward, mean over seeds."""
    test_difference: intervals.Difference
    curve: float
    """Training reward, mean over steps and seeds: how fast it learned."""
    curve_difference: intervals.Difference


def by_variant(runs: Seq[Measured]) -> dict[str, list[Measured]]:
    """Runs with at least a step."""
    names = dict.fromkeys(run.variant for run in runs)
    return {name: [run for run in runs if run.variant == name and run.steps] for name in names}


def beside(runs: Seq[Measured], published: Published) -> list[Beside]:
    """Each published point with what we have there."""
    return [
        Beside(point=point, variant=variant, ours=_ours(own, point))
        for variant, own in by_variant(runs).items()
        for point in published.points
        if point.variant in (None, variant)
    ]


def _ours(runs: Seq[Measured], point: Point) -> Triple | None:
    """At the end: of runs that have ended. At a step: of those that got so far."""
    there = [run for run in runs if (run.ended if point.step is None else run.steps >= point.step)]
    if point.metric == "test_reward":
        return _together([run.scores["reward"].tuned for run in there if run.scores])
    if point.metric == "heldout_reward":
        return _together([_held_out_at(run, point.step) for run in there])
    found = []
    for run in there:
        middle_T, low_T, high_T = band([run], point.metric)
        at = (run.steps if point.step is None else max(point.step, 1)) - 1
        found.append((float(middle_T[at]), float(low_T[at]), float(high_T[at])))
    return _together([one for one in found if not np.isnan(one[0])])


def _held_out_at(run: Measured, step: int | None) -> Triple | None:
    """The last evaluation by then."""
    last = max((e for e in run.heldout if step is None or e[0] <= step), default=None)
    return last[1:] if last else None


def _together(found: Seq[Triple | None]) -> Triple | None:
    known = [one for one in found if one]
    if len(known) < 2:
        return known[0] if known else None
    means = [mean for mean, _, _ in known]
    return float(np.mean(means)), min(means), max(means)


def contrasts(runs: Seq[Measured]) -> list[Contrast]:
    """Variants against the first: those that have finished its first two or more seeds, of these as many as make most
    of the runs; none before that."""
    cells = _complete(runs)
    if len(cells) < 2:
        return []
    shortest = min(run.steps for row in cells.values() for run in row)
    tests = [[run.scores["reward"].tuned[0] for run in row if run.scores["reward"].tuned] for row in cells.values()]
    curves = [[_level(run, shortest) for run in row] for row in cells.values()]
    of_tests, of_curves = intervals.differences(tests), intervals.differences(curves)
    assert of_tests is not None
    assert of_curves is not None
    return [
        Contrast(
            variant=name,
            seeds=len(row),
            test=float(np.mean(tests[place])),
            test_difference=of_tests[place],
            curve=float(np.mean(curves[place])),
            curve_difference=of_curves[place],
        )
        for place, (name, row) in enumerate(cells.items())
    ]


def _complete(runs: Seq[Measured]) -> dict[str, list[Measured]]:
    """Variants by seeds without a gap, the first variant among them; empty where that has not two seeds."""
    finished = {
        name: {run.seed: run for run in own if run.scores and run.scores["reward"].tuned}
        for name, own in by_variant(runs).items()
    }
    first = sorted(next(iter(finished.values()), {}))
    tables = []
    for count in range(2, len(first) + 1):
        seeds = first[:count]
        tables.append({n: [own[s] for s in seeds] for n, own in finished.items() if set(seeds) <= set(own)})
    return max(tables, key=lambda table: sum(map(len, table.values())), default={})


def _level(run: Measured, steps: int) -> float:
    return float(np.mean([value for value in run.curves["train_reward"][:steps] if value is not None]))
