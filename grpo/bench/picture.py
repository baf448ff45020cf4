"""A protocol's picture: its curves over the published ones. Touches: disk."""

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import numpy as np

from grpo.bench.compare import by_variant
from grpo.bench.curves import SMOOTH, band
from grpo.bench.measured import Measured
from grpo.bench.protocol import Metric, Point, Published

TITLES: dict[Metric, str] = {
    "train_reward": f"training reward, mean of {SMOOTH} steps",
    "heldout_reward": "held-out reward",
    "completion_tokens": "completion, tokens",
    "entropy": "entropy, nats",
    "grad_norm": "gradient norm",
}


def save_picture(runs: Seq[Measured], published: Published, title: str, target: Path) -> None:
    """One panel a metric, one colour a variant, in the band that its seeds span, or the 95 % interval of a single run.

    Dashed: where a run ended. Black: what was published, with the range it was given as.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    metrics = [m for m in TITLES if m == "train_reward" or any(point.metric == m for point in published.points)]
    figure = Figure(figsize=(8, 1 + 3.5 * len(metrics)), dpi=150, layout="constrained")
    panels = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0]
    drawn = {name: own for name, own in by_variant(runs).items() if own}
    for axes, metric in zip(panels, metrics, strict=True):
        draw = _draw_heldout if metric == "heldout_reward" else _draw_curve
        for (variant, own), colour in zip(drawn.items(), colours(len(drawn)), strict=True):
            draw(axes, own, metric, label_of(variant, own), colour)
        points = [point for point in published.points if point.metric == metric]
        _draw_published(axes, points, last_step(runs, published))
        axes.set(ylabel=TITLES[metric])
        axes.grid(alpha=0.25)
    if published.end and published.end.steps:
        panels[0].axvline(published.end.steps, color="black", ls=":", lw=1.2, label="published end")
    panels[0].set(title=title if drawn else f"{title}\nnot run")
    panels[-1].set(xlabel="step")
    if panels[0].get_legend_handles_labels()[0]:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize="small", ncols=3)
    figure.savefig(target)


def colours(count: int) -> list[tuple[float, float, float]]:
    """Different ones for up to twenty variants."""
    import matplotlib

    named = matplotlib.colormaps["tab10" if count <= 10 else "tab20"]
    return [named(number % named.N)[:3] for number in range(count)]


def label_of(variant: str, runs: Seq[Measured]) -> str:
    """In the legend."""
    seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
    return f"ours, {seeds}" if variant == "only" else f"{variant}, {seeds}"


def last_step(runs: Seq[Measured], published: Published) -> int:
    """Where a value of the end is drawn: where the published training ended, or ours did, or may."""
    ends = [run.steps for run in runs if run.ended] or [run.budget for run in runs]
    return (published.end and published.end.steps) or max(ends, default=1)


def _draw_curve(axes: Any, runs: Seq[Measured], metric: Metric, label: str, colour: Any) -> None:
    middle_T, low_T, high_T = band(runs, metric)
    steps_T = np.arange(1, len(middle_T) + 1)
    axes.plot(steps_T, middle_T, color=colour, lw=1.8, label=label)
    axes.fill_between(steps_T, low_T, high_T, color=colour, alpha=0.15, lw=0)
    for run in runs if metric == "train_reward" else ():
        if run.ended:
            axes.axvline(run.steps, color=colour, ls="--", lw=0.8, alpha=0.6)


def _draw_heldout(axes: Any, runs: Seq[Measured], metric: Metric, label: str, colour: Any) -> None:
    for run in runs:
        for step, mean, low, high in run.heldout:
            axes.errorbar([step], [mean], yerr=[[mean - low], [high - mean]], fmt="o", color=colour, ms=3, capsize=2)


def _draw_published(axes: Any, points: Seq[Point], end: int) -> None:
    for number, point in enumerate(points):
        step = end if point.step is None else point.step
        middle, half = (point.low + point.high) / 2, (point.high - point.low) / 2
        label = None if number else "published"
        axes.errorbar([step], [middle], yerr=[[half], [half]], fmt="s", color="black", ms=4, capsize=4, label=label)
        if point.variant:
            axes.annotate(point.variant, (step, middle), textcoords="offset points", xytext=(6, 0), fontsize="x-small")
