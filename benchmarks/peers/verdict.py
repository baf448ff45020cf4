"""The runs of learning.py against each other: how soon, with how much, how well. Pure."""

from collections import defaultdict
from collections.abc import Sequence as Seq
from statistics import median
from typing import Any

import numpy as np

from grpo.bench.curves import smooth
from grpo.bench.intervals import interval

SHARE = 0.8
"""Of the best reward of any run; who learns that much first?"""
Z95 = 1.96
Run = dict[str, Any]


def summary(runs: Seq[Run]) -> dict[str, Any]:
    """All sides, and ours against TRL's over the seeds that both have."""
    best = max((float(smooth(run["rewards"]).max()) for run in runs), default=0.0)
    sides: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run["side"], run["seed"])):
        sides[run["side"]].append(run | reached(run, SHARE * best))
    pairs = [(mine, other) for mine in sides for other in sides if mine.startswith("ours") and other.startswith("TRL")]
    return {
        "machine": sorted({run["machine"] for run in runs}),
        "best_reward": best,
        "threshold": SHARE * best,
        "sides": {name: describe(own) for name, own in sides.items()},
        "race": {f"{mine} / {other}": race(sides[mine], sides[other]) for mine, other in pairs},
        "runs": list(runs),
    }


def reached(run: Run, threshold: float) -> dict[str, Any]:
    """When the running mean of five steps was there first; None where it never was."""
    there = np.flatnonzero(smooth(run["rewards"]) >= threshold)
    step = int(there[0]) + 1 if there.size else None
    return {"steps_to_share": step, "seconds_to_share": run["seconds"][step - 1] if step else None}


def describe(runs: Seq[Run]) -> dict[str, Any]:
    """Of one side over its seeds: least, median and most of each, of the runs that got there."""
    names = ("steps_to_share", "seconds_to_share", "trainer_mib", "tree_mib")
    return {name: _spread([run[name] for run in runs]) for name in names} | {
        "seeds": [run["seed"] for run in runs],
        "never_there": [run["seed"] for run in runs if run["steps_to_share"] is None],
        "seconds_all": _spread([run["seconds"][-1] for run in runs]),
        "seconds_first_step": _spread([run["seconds"][0] for run in runs]),
        "seconds_a_step": median(
            b - a for run in runs for a, b in zip(run["seconds"], run["seconds"][1:], strict=False)
        ),
        "test": [run["test"]["mean"] for run in runs],
    }


def _spread(values: Seq[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [min(known), median(known), max(known)] if known else None


def race(ours: Seq[Run], theirs: Seq[Run]) -> dict[str, Any] | None:
    """Over the seeds that both have; None without one.

    The difference of test rewards is ours less theirs, paired by prompt; its interval over prompts takes the seeds as
    they are, that over seeds (Student's) says what another seed might do.
    """
    pairs = [(mine, other) for mine in ours for other in theirs if mine["seed"] == other["seed"]]
    if not pairs:
        return None
    both = [(mine, other) for mine, other in pairs if mine["seconds_to_share"] and other["seconds_to_share"]]
    ratios = [mine["seconds_to_share"] / other["seconds_to_share"] for mine, other in both]
    differences_SP = np.array([_difference(mine, other) for mine, other in pairs])
    by_prompt_P = differences_SP.mean(axis=0)
    half = Z95 * float(by_prompt_P.std(ddof=1)) / len(by_prompt_P) ** 0.5
    mean = float(by_prompt_P.mean())
    return {
        "seeds": [mine["seed"] for mine, _ in pairs],
        "wall_clock_ratio": ratios,
        "wall_clock_ratio_median": median(ratios) if ratios else None,
        "wall_clock_ratio_after_first_step": [_without_start(mine) / _without_start(other) for mine, other in both],
        "memory_ratio": [mine["trainer_mib"] / other["trainer_mib"] for mine, other in pairs],
        "memory_ratio_of_tree": [mine["tree_mib"] / other["tree_mib"] for mine, other in pairs],
        "test_difference": mean,
        "test_difference_95_over_prompts": [mean - half, mean + half],
        "test_difference_95_over_seeds": interval([float(row.mean()) for row in differences_SP]),
    }


def _difference(mine: Run, other: Run) -> list[float]:
    assert mine["test"]["errors"] == other["test"]["errors"] == 0, "prompts cannot be paired: some were not scored"
    return [a - b for a, b in zip(mine["test"]["prompt_means"], other["test"]["prompt_means"], strict=True)]


def _without_start(run: Run) -> float:
    """Seconds from the end of the first step."""
    return float(run["seconds_to_share"] - run["seconds"][0])
