"""A protocol's report: report.json, report.html, report.png. Touches: disk.

What was not run stands in it as not run; nothing is estimated in its place.
"""

import json
from collections.abc import Sequence as Seq
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from grpo.bench.compare import Beside, Contrast, Prices, beside, contrasts
from grpo.bench.intervals import Difference
from grpo.bench.measured import Measured, Score, Triple
from grpo.bench.picture import save_picture
from grpo.bench.protocol import Protocol, Published
from grpo.page import bullets, page, picture, table
from grpo.runlog import write_atomic

RUN_HEAD = (
    "variant", "seed", "ended by", "steps", "completions", "tokens", "seconds", "of them in steps", "GPU-hours",
    "tokens/s", "trainer's peak, GiB", "device", "ranks", "cost",
)  # fmt: skip
CONTRAST_HEAD = ("variant", "seeds", "final test reward", "to the first", "mean training reward", "to the first")
CONTRAST_NOTE = (
    "Final test reward is that of the chosen checkpoint; the mean training reward, over the steps that all runs made, "
    "tells how fast it was learned. The intervals of a column's differences all cover with 95 % (Dunnett's): "
    "seeds are blocks, and all variants share one variance."
)


def save_report(
    protocol: Protocol, published: Published, runs: Seq[Measured], prices: Prices, out: Path
) -> dict[str, Any]:
    """Write all three into ``out``; returns what report.json holds."""
    out.mkdir(parents=True, exist_ok=True)
    points, against = beside(runs, published), contrasts(runs)
    content: dict[str, Any] = {
        "title": protocol.title,
        "state": state(runs),
        "claims": protocol.claims.model_dump(mode="json"),
        "sources": {name: source.model_dump() for name, source in published.sources.items()},
        "published_end": published.end.model_dump() if published.end else None,
        "beside": [asdict(one) | {"point": one.point.model_dump()} for one in points],
        "prices": asdict(prices),
        "runs": [_row(run, prices) for run in runs],
        "against_the_first": [asdict(one) for one in against],
    }
    write_atomic(out / "report.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    save_picture(runs, published, protocol.title, out / "report.png")
    write_atomic(out / "report.html", page(protocol.title, _parts(protocol, published, runs, prices, out, content)))
    return content


def _parts(
    protocol: Protocol, published: Published, runs: Seq[Measured], prices: Prices, out: Path, content: dict[str, Any]
) -> list[str]:
    claims, several = protocol.claims, len(protocol.variants) > 1
    return [
        f"<h1>{escape(protocol.title)}</h1><p>{escape(content['state'])}</p>",
        picture((out / "report.png").read_bytes(), "Our curves over the published ones"),
        "<h2>Beside what was published</h2>" + _beside(beside(runs, published)),
        "<h2>Test prompts</h2>" + _scores(runs),
        "<h2>Runs</h2>" + _runs(runs, prices) + _end(published) + _priced(prices) + _reasons(runs),
        "<h2>Variants against the first</h2>" + _contrasts(contrasts(runs)) if several else "",
        "<h2>Published</h2>" + bullets(claims.published),
        "<h2>Inferred</h2>" + bullets(claims.inferred),
        "<h2>Not comparable</h2>" + bullets(claims.not_comparable),
        "<h2>Sources</h2>" + bullets(f"{name}: {s.title}, {s.url}" for name, s in published.sources.items()),
        "<h2>Settings</h2>" + _settings(protocol, runs),
    ]


def state(runs: Seq[Measured]) -> str:
    """How much of the protocol was run."""
    if not any(run.steps for run in runs):
        return "not run"
    return f"{sum(run.ended for run in runs)} of {len(runs)} runs finished"


def spread(found: Triple | None, missing: str = "-") -> str:
    """A mean with its interval, where it has one."""
    if found is None:
        return missing
    mean, low, high = found
    return f"{mean:.4g}" if low == high else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def _row(run: Measured, prices: Prices) -> dict[str, Any]:
    told = {"gpu_hours": run.gpu_hours, "tokens_per_second": run.tokens_per_second, "cost": prices.cost(run)}
    halves = [half if half == half else None for half in run.half_widths]  # of a single prompt it is not a number
    return asdict(run) | told | {"half_widths": halves}


def _beside(points: Seq[Beside]) -> str:
    rows = []
    for one in points:
        point = one.point
        told = f"{point.low:g}" if point.low == point.high else f"{point.low:g} to {point.high:g}"
        step = "end" if point.step is None else point.step
        ours = spread(one.ours, "not reached")
        rows.append([one.variant, point.metric, step, told, ours, f"{point.source}, {point.how}"])
    head = ("variant", "what", "step", "published", "ours, mean of up to 5 steps", "source")
    note = "<p>In brackets what several seeds span, or the 95 % interval of a single one.</p>" if rows else ""
    return table(head, rows) + note


def _scores(runs: Seq[Measured]) -> str:
    def row(run: Measured, grader: str, score: Score) -> list[Any]:
        told = [spread(score.base), spread(score.tuned), spread(score.gain)]
        return [run.variant, run.seed, grader, *told, score.completions, score.errors]

    rows = [row(run, name, score) for run in runs for name, score in run.scores.items()]
    head = (
        "variant",
        "seed",
        "grader",
        "base (95 %)",
        "tuned (95 %)",
        "gain, paired (95 %)",
        "completions",
        "not scored",
    )
    return table(head, rows)


def _runs(runs: Seq[Measured], prices: Prices) -> str:
    return table(
        RUN_HEAD, [[run.variant, run.seed, run.status.replace("_", " "), *_numbers(run, prices)] for run in runs]
    )


def _numbers(run: Measured, prices: Prices) -> list[str | int | None]:
    if not run.steps:
        return [None] * 11
    hours = _plain(run.gpu_hours, 2) if run.gpus else "no GPU"
    return [
        *(
            run.steps,
            f"{run.completions:,}",
            f"{run.tokens:,}",
            _plain(run.seconds, 0),
            _plain(run.step_seconds, 0),
            hours,
        ),
        *(
            _plain(run.tokens_per_second, 0),
            _plain(run.peak_gib, 1),
            run.device,
            run.ranks,
            _plain(prices.cost(run), 2),
        ),
    ]


def _plain(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"


def _end(published: Published) -> str:
    end = published.end
    if end is None:
        return ""
    told = [f"{end.steps} steps"] if end.steps else []
    told += [f"{end.gpu_hours:g} GPU-hours"] if end.gpu_hours else []
    where = f" on {end.hardware}" if end.hardware else ""
    return f"<p>Published: {escape(', '.join(told) + where)} ({escape(end.source)}).</p>"


def _priced(prices: Prices) -> str:
    if not (prices.hour or prices.million_tokens):
        return "<p>No price was given: --hour-price, --token-price.</p>"
    told = f"{prices.hour:g} an hour of training, {prices.million_tokens:g} a million sampled tokens"
    return f"<p>The cost is that of our hours and tokens at the prices given: {told}.</p>"


def _reasons(runs: Seq[Measured]) -> str:
    return bullets(f"{run.variant}, seed {run.seed}: {run.reason}" for run in runs if run.reason)


def _contrasts(against: Seq[Contrast]) -> str:
    rows = [
        [one.variant, one.seeds, one.test, _apart(one.test_difference), one.curve, _apart(one.curve_difference)]
        for one in against
    ]
    return table(CONTRAST_HEAD, rows) + f"<p>{CONTRAST_NOTE}</p>"


def _apart(difference: Difference) -> str | None:
    if difference.low == difference.high:
        return None
    return f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def _settings(protocol: Protocol, runs: Seq[Measured]) -> str:
    rows = [[run.variant, run.seed, run.model, " ".join(run.overrides), (run.digest or "-")[:12]] for run in runs]
    return f"<p>{escape(str(protocol.config))}</p>" + table(("variant", "seed", "model", "changed", "digest"), rows)
