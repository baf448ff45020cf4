"""When to stop: a verdict from the stream of step rewards. Pure; no torch.

The rule rejects H0 "the expected reward gains at least ``delta`` over the next ``horizon`` steps" at level ``alpha``;
the statistics are in flatness.py, derivation and references in docs/convergence.md. A curve that never rose is
``no_signal``, never converged.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from grpo.config import Convergence
from grpo.flatness import SMALLEST_WINDOW, Criterion, LookResult, has_risen, looks

Status = Literal["improving", "plateau", "no_signal", "collapsed", "budget_exhausted"]

SILENT_STEPS = 20
"""This many steps in a row without a single group that carries a gradient end the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What the rule needs to know of one step."""

    step: int
    reward: float
    """Mean over the step's scored completions."""
    signal_share: float
    """Share of groups whose rewards differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One test, with its numbers, for the log."""

    step: int
    window: int | None
    """Steps of the window with the lowest bound; None where no window is long enough to be believed."""
    bound: float | None
    """Upper confidence bound of the gain over the next ``horizon`` steps, reward units."""
    alpha_spent: float
    """By this look and all before it."""
    rose: bool
    """More than delta above where the curve began, beyond noise."""
    fallen: bool
    """Below the best level so far, beyond noise."""
    flat: bool
    """Certified."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the curve says now."""

    status: Status
    reason: str
    stop: bool
    look: Look | None
    """The latest look, if there has been one."""


def judge(points: Seq[Point], config: Convergence, *, warmup: int, budget: int) -> Verdict:
    """The verdict after the last of ``points``; a pure function of the whole history, so resuming changes nothing."""
    verdict = _curve(points, config, warmup)
    if len(points) < budget:
        return replace(verdict, stop=verdict.stop and config.stop)
    if verdict.status != "improving":
        return replace(verdict, stop=True)
    return _at_budget(verdict.look, budget)


def _curve(points: Seq[Point], config: Convergence, warmup: int) -> Verdict:
    """What the curve says, whatever the budget."""
    if points and not math.isfinite(points[-1].reward):
        return Verdict("collapsed", f"the reward of step {points[-1].step} is {points[-1].reward}", True, None)
    look = latest_look(points, config, warmup)
    silent = points[-SILENT_STEPS:]
    if len(points) >= max(config.min_steps, SILENT_STEPS) and not any(p.signal_share for p in silent):
        return _silent(points, look, config)
    if look is not None and look.flat:
        assert look.bound is not None  # a certified look has a bound
        reason = (
            f"the next {config.horizon} steps gain less than {config.delta:g} (upper bound {look.bound:.4f} from the "
            f"last {look.window} steps; alpha spent {look.alpha_spent:.4f} of {config.alpha:g})"
        )
        return Verdict("plateau", reason, True, look)
    return Verdict("improving", _improving(look, config), False, look)


def _silent(points: Seq[Point], look: Look | None, config: Convergence) -> Verdict:
    """Nothing left to learn, or never anything: the rise tells."""
    reason = f"for {SILENT_STEPS} steps every group had equal rewards (now {points[-1].reward:.3f})"
    if len(points) > SILENT_STEPS and _has_risen(points, config.alpha):
        return Verdict("plateau", f"{reason}, after a rise: no update changes the policy any more", True, look)
    advice = "there was nothing to learn from: make the task easier or harder, or give partial credit"
    return Verdict("no_signal", f"{reason}, {advice}", True, look)


def _has_risen(points: Seq[Point], alpha: float) -> bool:
    return bool(has_risen(*_arrays(points), SILENT_STEPS, alpha)[0])


def latest_look(points: Seq[Point], config: Convergence, warmup: int) -> Look | None:
    """The most recent scheduled look, or None before the first."""
    usable = points[warmup:]
    due = list(looks(*_arrays(usable), criterion(config, warmup)))
    return _look(due[-1], usable) if due else None


def criterion(config: Convergence, warmup: int) -> Criterion:
    """What the configuration asks to be certified."""
    return Criterion(
        delta=config.delta,
        alpha=config.alpha,
        horizon=config.horizon,
        first=max(config.min_steps - warmup, SMALLEST_WINDOW),
    )


def _arrays(points: Seq[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of shape (1, T) and their steps."""
    rewards = np.array([[p.reward for p in points]], dtype=np.float64)
    return rewards, np.array([p.step for p in points], dtype=np.float64)


def _look(result: LookResult, usable: Seq[Point]) -> Look:
    bound = float(result.bound[0])
    believed = math.isfinite(bound)
    return Look(
        step=usable[result.seen - 1].step + 1,
        window=int(result.window[0]) if believed else None,
        bound=bound if believed else None,
        alpha_spent=result.spent,
        rose=bool(result.rose[0]),
        fallen=bool(result.fallen[0]),
        flat=bool(result.flat[0]),
    )


def _at_budget(look: Look | None, budget: int) -> Verdict:
    if look is not None and not look.rose:
        reason = f"after {budget} steps the reward is not significantly more than delta above where it began"
        return Verdict("no_signal", reason, True, look)
    reason = f"the budget of {budget} steps is used up before the curve could be certified flat"
    return Verdict("budget_exhausted", reason, True, look)


def _improving(look: Look | None, config: Convergence) -> str:
    if look is None:
        return "too few steps to judge"
    if not look.rose:
        return f"not yet {config.delta:g} above where it began"
    if look.bound is None:
        return "flat stretches so far are too short to be believed"
    if look.bound < config.delta:
        return "below its best level: falling or swinging, not flat"
    return f"the next {config.horizon} steps may still gain up to {look.bound:.3f}"
