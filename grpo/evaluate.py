"""Mean reward on a fixed prompt set, with an interval over prompts."""

import math
from collections.abc import Sequence as Seq
from statistics import NormalDist

import numpy as np

from grpo.episodes import Player
from grpo.errors import RewardError
from grpo.rewards import RewardFunction
from grpo.rollout import Sampling
from grpo.types import Evaluation, Group, Prompt

PROMPTS_AT_ONCE = 32
LEVEL = 0.95


def evaluate(
    player: Player,
    reward: RewardFunction,
    prompts: Seq[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    stream: int,
    step: int,
) -> tuple[Evaluation, list[Group]]:
    """Score every prompt. The same seed and stream draw with the same random numbers at every step.

    Raises RewardError when nothing could be scored.
    """
    groups: list[Group] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        part = prompts[start : start + PROMPTS_AT_ONCE]
        groups += reward.score(player.collect(part, sampling, seed=seed, stream=stream, step=start))
    if not any(group.values for group in groups):
        raise RewardError(f"not one evaluated completion could be scored, first: {groups[0].rewards[0].error}")
    return summarise(groups, step), groups


def summarise(groups: Seq[Group], step: int) -> Evaluation:
    """Mean over prompts of their mean reward; completions of one prompt are not independent, prompts are.

    The interval is the normal approximation over prompt means. Prompts without any score are left out; with fewer
    than two prompts left the interval is the whole line.
    """
    means = [float(np.mean(group.values)) for group in groups if group.values]
    mean = float(np.mean(means)) if means else float("nan")
    half = float("inf")
    if len(means) > 1:
        half = NormalDist().inv_cdf(0.5 + LEVEL / 2) * float(np.std(means, ddof=1)) / len(means) ** 0.5
    scored = sum(len(group.values) for group in groups)
    return Evaluation(
        step=step,
        mean=mean,
        low=mean - half,
        high=mean + half,
        n=scored,
        prompt_means=tuple(means),
        errors=sum(len(group.rewards) for group in groups) - scored,
    )


def best(evaluations: Seq[Evaluation]) -> Evaluation | None:
    """The evaluation with the highest lower bound, the latest among equals; None where there is none."""
    scored = [e for e in evaluations if math.isfinite(e.mean)]
    return max(scored, key=lambda e: (e.low, e.step), default=None)
