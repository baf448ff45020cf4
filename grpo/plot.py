"""Pictures of a run: reward with its band, held-out evaluations. Touches: disk."""

from collections.abc import Sequence as Seq
from pathlib import Path

from grpo.errors import DataError
from grpo.points import Point
from grpo.replay import Replay
from grpo.runlog import RunLog

SMOOTH = 5
"""Steps of the running mean drawn over the points."""
FLOOR = 1e-4
"""Gain bounds below this, negative ones too, are drawn here."""


def save_curve(run: Path, target: Path) -> None:
    """Draw a run's metrics.jsonl into a PNG. Raises DataError when there is nothing to draw."""
    import matplotlib  # imported here: it takes a second, and most commands draw nothing

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    log = RunLog(run)
    metrics, evaluations = log.metrics(), log.evaluations()
    if not metrics:
        raise DataError(f"{run}: no finished step to draw; metrics.jsonl is empty or missing")
    steps = [m["step"] + 1 for m in metrics]
    rewards = [m["critic_rewards_mean"] for m in metrics]
    half = [m["reward_half_width"] for m in metrics]
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    low = [r - h for r, h in zip(rewards, half, strict=True)]
    high = [r + h for r, h in zip(rewards, half, strict=True)]
    axes.fill_between(steps, low, high, color="tab:blue", alpha=0.15, lw=0, label="95 % band of one step")
    axes.plot(steps, rewards, ".", color="tab:blue", ms=4, label="training reward")
    axes.plot(steps, _running_mean(rewards), color="tab:blue", lw=1.8, label=f"mean of {SMOOTH} steps")
    if evaluations:
        bars = [[e.mean - e.low for e in evaluations], [e.high - e.mean for e in evaluations]]
        axes.errorbar(
            [e.step for e in evaluations],
            [e.mean for e in evaluations],
            yerr=bars,
            fmt="o",
            color="tab:orange",
            capsize=3,
            label="held-out reward, 95 %",
        )
    axes.set(xlabel="step", ylabel="reward", title=f"{run}: {metrics[-1]['status']} at step {steps[-1]}")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    figure.savefig(target)


def save_replay(points: Seq[Point], result: Replay, title: str, target: Path) -> None:
    """Draw a curve, the rule's gain bound at every look, and where it would have stopped."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), dpi=150, layout="constrained")
    curve, bounds = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    steps, rewards = [p.step + 1 for p in points], [p.reward for p in points]
    curve.plot(steps, rewards, ".", color="tab:blue", ms=3, alpha=0.6, label="reward")
    curve.plot(steps, _running_mean(rewards), color="tab:blue", lw=1.8, label=f"mean of {SMOOTH} steps")
    curve.set(ylabel="reward", title=f"{title}: {result.verdict.status}")
    known = [look for look in result.looks if look.bound is not None]
    bounds.semilogy(
        [k.step for k in known], [max(k.bound or 0.0, FLOOR) for k in known], "o-", ms=3, color="tab:orange"
    )
    bounds.set(xlabel="step", ylabel="gain at most")
    for axes in (curve, bounds):
        axes.grid(alpha=0.25)
        if result.stop_step is not None:
            axes.axvline(result.stop_step, color="tab:red", lw=1.2, label=f"stop after step {result.stop_step}")
    curve.legend(loc="lower right")
    figure.savefig(target)


def _running_mean(values: list[float]) -> list[float]:
    parts = (values[max(0, i - SMOOTH + 1) : i + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]
