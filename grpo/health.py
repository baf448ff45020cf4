"""What is wrong with a run that learns nothing, gets worse or breaks: likely cause, and the setting to change. Pure.

Every check reads the points alone; a signal that a stream does not carry is never held against it.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from statistics import median

from grpo.points import Point

RECENT = 5
"""A signal is the median of this many steps, so that one odd step is no finding."""
BEGINNING = 10
"""It is compared with the median of this many first steps."""
LARGEST_GAP = 0.2
"""Nats per token between trainer and sampler: importance weights of 20 % and more, on average."""
ENTROPY_LOST, ENTROPY_GAINED = 0.05, 3.0
"""Shares of the entropy at the beginning."""
LENGTH_CHANGE = 3.0
LARGEST_KL = 1.0
"""Nats per token away from the base model."""
MOST = 0.95
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen, and what to do about it."""

    cause: str
    advice: str


def broken(points: Seq[Point]) -> Finding | None:
    """Signs that the numbers themselves are worthless, whatever the reward."""
    last = points[-1]
    for name in ("reward", "entropy", "kl", "gap", "grad_norm"):
        value = getattr(last, name)
        if value is not None and not math.isfinite(value):
            return Finding(
                f"the {name.replace('_', ' ')} of step {last.step + 1} is {value}",
                "lower update.learning_rate; look for infinite or missing scores in the reward function",
            )
    gap = recent(points, "gap")
    if gap is not None and gap > LARGEST_GAP:
        return Finding(
            f"trainer and sampler differ by {gap:.2f} nats a token",
            "the sampler does not follow the trainer: set model.dtype = float32 or rollout.sync = merged",
        )
    return None


def degenerate(points: Seq[Point]) -> Finding | None:
    """Signs of a policy that broke before it learned anything; for curves that have not risen."""
    entropy = _grown(points, "entropy")
    if entropy is not None and entropy < ENTROPY_LOST:
        return Finding(
            f"the entropy fell to {entropy:.0%} of what it was, without any gain in reward",
            "the policy gives one answer whatever the prompt: lower update.learning_rate, or raise update.clip_high",
        )
    return _exploded(points)


def why_fallen(points: Seq[Point]) -> Finding:
    """The likely cause of a certain fall in reward: the signal that left its range, else the learning rate."""
    truncated, before = recent(points, "truncated_share"), beginning(points, "truncated_share")
    if truncated is not None and before is not None and truncated > MOST and before < HALF:
        return Finding(f"{truncated:.0%} of the completions are cut at the limit", "raise rollout.max_tokens")
    errors = recent(points, "error_share")
    if errors is not None and errors > HALF:
        return Finding(f"{errors:.0%} of the completions could not be scored", "look into reward.log")
    length = _grown(points, "length")
    if length is not None and not 1 / LENGTH_CHANGE < length < LENGTH_CHANGE:
        return Finding(
            f"completions are {length:.1f} times as long as at first",
            "the reward may pay for length alone: change the reward function, or set update.kl_coef",
        )
    entropy = _grown(points, "entropy")
    if entropy is not None and entropy < ENTROPY_LOST:
        return Finding(f"the entropy fell to {entropy:.0%} of what it was", "lower update.learning_rate")
    return _exploded(points) or Finding(
        "no other signal left its range", "the updates are too large: lower update.learning_rate, or set update.kl_coef"
    )


def why_silent(points: Seq[Point]) -> Finding:
    """Why a run has nothing to learn from."""
    errors, truncated = recent(points, "error_share"), recent(points, "truncated_share")
    if errors is not None and errors > HALF:
        return Finding(f"{errors:.0%} of the completions could not be scored", "look into reward.log")
    if truncated is not None and truncated > MOST:
        return Finding(f"{truncated:.0%} of the completions are cut at the limit", "raise rollout.max_tokens")
    lowest, highest = (getattr(points[-1], name) for name in ("lowest", "highest"))
    last = points[-RECENT:]
    if lowest is not None and all(p.lowest == p.highest == lowest for p in last):
        return Finding(
            f"every completion gets the reward {highest:g}",
            "look at reward.file: it may compare the wrong fields, or the task is far too hard or too easy",
        )
    silent = [p.signal_share for p in last if p.signal_share is not None]
    if silent and not any(silent):
        return Finding(
            "all completions of a prompt get the same reward",
            "raise rollout.completions_per_prompt or rollout.temperature, or give partial credit",
        )
    return Finding(
        "rewards differ, but the policy does not gain",
        "raise update.learning_rate or rollout.prompts_per_step, or use easier prompts",
    )


def _exploded(points: Seq[Point]) -> Finding | None:
    entropy, kl = _grown(points, "entropy"), recent(points, "kl")
    if entropy is not None and entropy > ENTROPY_GAINED:
        return Finding(f"the entropy is {entropy:.1f} times what it was", "lower update.learning_rate")
    if kl is not None and kl > LARGEST_KL:
        return Finding(f"the policy is {kl:.1f} nats a token away from the base model", "raise update.kl_coef")
    return None


def recent(points: Seq[Point], name: str) -> float | None:
    """What a signal is now."""
    return typical(points[-RECENT:], name) if len(points) >= RECENT else None


def beginning(points: Seq[Point], name: str) -> float | None:
    """What it was at first."""
    return typical(points[:BEGINNING], name) if len(points) >= BEGINNING + RECENT else None


def _grown(points: Seq[Point], name: str) -> float | None:
    now, before = recent(points, name), beginning(points, name)
    return now / before if now is not None and before else None


def typical(points: Seq[Point], name: str) -> float | None:
    """The median of what is known and finite; None where that is not the most of it."""
    values = [getattr(p, name) for p in points]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return median(known) if 2 * len(known) > len(values) else None
