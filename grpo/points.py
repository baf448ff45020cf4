"""What the stop rule knows of a step. Pure; no torch.

A point is read from the step's line in metrics.jsonl, during the run as well as after a restart: the rule sees the same
numbers in both.
"""

from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One step. What a stream of another trainer does not tell is None or empty."""

    step: int
    reward: float
    """Mean over the step's scored completions."""
    completions: int | None = None
    """Scored ones; weighs the step."""
    signal_share: float | None = None
    """Share of groups whose rewards differ."""
    lowest: float | None = None
    """Reward of a single completion."""
    highest: float | None = None
    error_share: float | None = None
    """Completions whose scoring failed."""
    truncated_share: float | None = None
    """Completions cut at the length limit."""
    length: float | None = None
    """Mean tokens of a completion."""
    entropy: float | None = None
    """Nats per token."""
    kl: float | None = None
    """Against the base model, nats per token."""
    gap: float | None = None
    """Mean absolute difference of trainer's and sampler's log-probabilities, nats."""
    grad_norm: float | None = None
    learning_rate: float | None = None
    prompts: tuple[int, ...] = ()
    """Which prompts the step drew, by index."""
    prompt_rewards: tuple[float, ...] = ()
    """Their mean rewards, in the same order."""
    considered: tuple[int, ...] = ()
    """The prompts the step's mean speaks of, where some of them were left out; else ``prompts``."""
    visited: int = 0
    """How far the step went in the order of prompts."""


FROM_METRICS = {
    "reward": "critic_rewards_mean",
    "completions": "scored_completions",
    "lowest": "reward_lowest",
    "highest": "reward_highest",
    "error_share": "reward_error_share",
    "truncated_share": "truncated_share",
    "length": "response_length_mean",
    "entropy": "actor_entropy",
    "kl": "kl",
    "gap": "sampler_gap_mean",
    "grad_norm": "actor_grad_norm",
    "learning_rate": "learning_rate",
    "prompts": "prompts",
    "prompt_rewards": "prompt_rewards",
    "considered": "considered",
    "visited": "visited_prompts",
}
"""Field of a point: name in metrics.jsonl."""


def of_record(record: dict[str, Any]) -> Point:
    """The point of a metrics record; a name the record lacks stays unknown. Raises KeyError without step and reward."""
    values = {field: record[name] for field, name in FROM_METRICS.items() if name in record}
    if "zero_variance_share" in record:
        values["signal_share"] = 1 - record["zero_variance_share"]
    return parse({"step": record["step"], "reward": record["critic_rewards_mean"]} | values)


def parse(values: dict[str, Any]) -> Point:
    """Inverse of ``dump``."""
    frozen: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Point(**frozen)


def dump(point: Point) -> dict[str, Any]:
    """For JSON."""
    return asdict(point)


def difficulty(points: Seq[Point]) -> Floats:
    """(T,) how much better than average each step's prompts did when they were last drawn, reward units.

    A step's mean moves with the prompts it happened to draw. What is known of them beforehand is their reward at
    their last visit, minus what average prompts would have got in that step; prompts never seen count as average.
    Unknown prompts: all 0.
    """
    latest: dict[int, float] = {}
    expected = np.zeros(len(points))
    for i, point in enumerate(points):
        if point.prompts:
            expected[i] = _known(latest, point.considered or point.prompts)
            average = float(np.mean(point.prompt_rewards)) - _known(latest, point.prompts)
            latest |= {p: r - average for p, r in zip(point.prompts, point.prompt_rewards, strict=True)}
    return expected


def _known(latest: dict[int, float], prompts: Seq[int]) -> float:
    return float(np.mean([latest.get(prompt, 0.0) for prompt in prompts]))


def without_difficulty(rewards_RT: Floats, difficulty_RT: Floats) -> Floats:
    """Rewards of R curves as if every step had drawn average prompts.

    The share of the past difference that persists, in [0, 1], is a regression of the steps' differences, which no slow
    trend disturbs (analysis of covariance).
    """
    dy, dx = np.diff(rewards_RT, axis=1), np.diff(difficulty_RT, axis=1)
    spread = (dx**2).sum(1)
    share = np.clip(np.divide((dx * dy).sum(1), spread, out=np.zeros_like(spread), where=spread > 0), 0, 1)
    centred = difficulty_RT - difficulty_RT.mean(1, keepdims=True)
    adjusted: Floats = rewards_RT - share[:, None] * centred
    return adjusted
