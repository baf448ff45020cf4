"""What a protocol's run did, read from its directory. Touches: disk, processes (graders).

A run that was killed and resumed counts every step once; its wall-clock from start to end is then unknown, that of its
steps is not.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

from grpo.bench.runs import PlannedRun
from grpo.evaluate import summarise
from grpo.heldout import change
from grpo.rewards import RewardFunction
from grpo.runlog import RunLog, read_lines
from grpo.sections import Reward
from grpo.types import Evaluation, Group

Z95 = 1.96
Triple = tuple[float, float, float]
"""Mean, lower and upper bound."""
CURVES = {
    "train_reward": "critic_rewards_mean",
    "completion_tokens": "response_length_mean",
    "entropy": "actor_entropy",
    "grad_norm": "actor_grad_norm",
}
"""Metric of a published point: name in metrics.jsonl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of the test prompts by one grader, means with 95 % intervals over prompts; None where nothing was scored."""

    base: Triple | None
    tuned: Triple | None
    gain: Triple | None
    """Paired by prompt; None where prompts cannot be paired, for some were not scored."""
    completions: int
    """Scored, of both models together."""
    errors: int
    """Not scored, of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run. ``curves`` and ``heldout`` are by updates made."""

    variant: str
    seed: int
    directory: str
    status: str
    """The verdict; ``unfinished`` where there is none yet, ``not run`` without a step."""
    reason: str = ""
    budget: int = 0
    """The most steps it may make."""
    model: str = ""
    overrides: tuple[str, ...] = ()
    """What the command changed in the training's file."""
    digest: str | None = None
    """Of the configuration and of all files it names; None of a run without a step."""
    steps: int = 0
    completions: int = 0
    """Sampled for training."""
    tokens: int = 0
    """Sampled for training."""
    step_seconds: float = 0.0
    """Of all steps together: sampling, scoring, update, sync, held-out evaluations. A step that was sampled before a
    kill and trained after it counts what came after."""
    seconds: float | None = None
    """From when the prompts were read to the end, starting engines and scoring test prompts included; None where the
    run was resumed."""
    device: str | None = None
    ranks: int = 1
    gpus: int = 0
    peak_gib: float = 0.0
    """Of the trainer's main rank."""
    curves: dict[str, list[float | None]]
    half_widths: list[float]
    """Of each step's reward, 95 %."""
    heldout: list[tuple[int, float, float, float]]
    """(updates, mean, low, high)."""
    scores: dict[str, Score]

    @property
    def ended(self) -> bool:
        """Whether it has a verdict."""
        return self.status not in ("not run", "unfinished")

    @property
    def gpu_hours(self) -> float | None:
        """None without a GPU, or where the wall-clock is unknown."""
        return self.gpus * self.seconds / 3600 if self.gpus and self.seconds else None

    @property
    def tokens_per_second(self) -> float | None:
        """Sampled, over the time of the steps."""
        return self.tokens / self.step_seconds if self.step_seconds else None


def measure(run: PlannedRun, graders: dict[str, Reward]) -> Measured:
    """Of a run in whatever state it is."""
    found: dict[str, Any] = {"variant": run.variant.name, "seed": run.seed, "directory": str(run.directory)}
    found |= {"budget": run.config.run.steps, "model": str(run.config.model.path), "overrides": run.overrides}
    nothing: dict[str, Any] = {"curves": {}, "half_widths": [], "heldout": [], "scores": {}}
    lines = list(read_lines(run.directory / "metrics.jsonl"))
    if not lines:
        return Measured(**found, **nothing, status="not run")
    log = RunLog(run.directory)
    events = list(read_lines(log.events_path))
    ended = [event for event in events if event["event"] == "end"] if run.finished else []
    started = next((event for event in events if event["event"] == "start"), {})
    return Measured(
        **found,
        status=ended[-1]["verdict"] if ended else "unfinished",
        reason=ended[-1]["reason"] if ended else "",
        digest=run.config.digest(),
        steps=len(lines),
        completions=sum(line["scored_completions"] + line["reward_errors"] for line in lines),
        tokens=sum(line["sampled_tokens"] for line in lines),
        step_seconds=sum(line["seconds"] for line in lines),
        seconds=_wall_clock(events) if ended else None,
        device=started.get("device"),
        ranks=started.get("ranks", 1),
        gpus=started.get("gpus", 0),
        peak_gib=max(line["memory_peak_gib"] for line in lines),
        curves={metric: [line[name] for line in lines] for metric, name in CURVES.items()},
        half_widths=[line["reward_half_width"] for line in lines],
        heldout=[(e.step, e.mean, e.low, e.high) for e in log.evaluations()],
        scores=_scores(log, graders) if ended else {},
    )


def _wall_clock(events: Seq[dict[str, Any]]) -> float | None:
    """None where the run had to be resumed: what a killed process did after its last event is on no clock. What was
    tried before the run's start, and failed, does not count."""
    kinds = [event["event"] for event in events]
    if "resume" in kinds or kinds.count("start") != 1:
        return None
    start = kinds.index("start")
    opened = [event["time"] for event in events[:start] if event["event"] == "reward_function"]
    ended = [event["time"] for event in events[start:] if event["event"] == "end"]
    return float(round(ended[0] - opened[-1], 1))


def _scores(log: RunLog, graders: dict[str, Reward]) -> dict[str, Score]:
    """By the run's own reward, as it was given, and by each of the protocol's graders."""
    before, after = log.load_evaluation("test_base"), log.load_evaluation("test_tuned")
    if not before or not after:
        return {}
    found = {"reward": _score(before, after)}
    for name, settings in graders.items():
        grader = RewardFunction(settings, log.directory / "measures.log")
        try:
            asked = ([(group.prompt, group.completions) for group in groups] for groups in (before, after))
            again = [grader.score(groups) for groups in asked]
        finally:
            grader.close()
        found[name] = _score(*again)
    return found


def _score(before: Seq[Group], after: Seq[Group]) -> Score:
    base, tuned = summarise(before, 0), summarise(after, 1)
    difference = change(base, tuned)
    half = Z95 * difference.error if difference else 0.0
    gain = (difference.mean, difference.mean - half, difference.mean + half) if difference else None
    scored, errors = base.n + tuned.n, base.errors + tuned.errors
    return Score(base=_known(base), tuned=_known(tuned), gain=gain, completions=scored, errors=errors)


def _known(evaluation: Evaluation) -> Triple | None:
    found = (evaluation.mean, evaluation.low, evaluation.high)
    return found if all(math.isfinite(value) for value in found) else None
