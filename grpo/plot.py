"""A picture of a run: reward with its band, held-out evaluations. Touches: disk."""

from pathlib import Path

from grpo.errors import DataError
from grpo.runlog import RunLog

SMOOTH = 5
"""Steps of the running mean drawn over the points."""


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


def _running_mean(values: list[float]) -> list[float]:
    parts = (values[max(0, i - SMOOTH + 1) : i + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]
