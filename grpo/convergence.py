"""When to stop: a verdict from the stream of step rewards. Pure; no torch.

The rule rejects H0 "the expected reward gains at least ``delta`` over the next ``horizon`` steps" at level ``alpha``.
At each look it fits a line to several trailing windows of the training reward. A window's upper confidence bound of
slope * horizon below ``delta`` rejects H0, provided the curve has first risen significantly above where it began (a
curve that never rose is ``no_signal``, never converged). Looks are ``LOOK_EVERY`` steps apart; look k may spend
alpha * 6 / (pi^2 k^2), split over its windows, so all looks together spend at most alpha. The slope's standard error is
widened for positive lag-1 autocorrelation of the residuals. Assumption: past the rise, the curve does not speed up
again by itself. Derivation and references: docs/convergence.md.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import t as student

from grpo.config import Convergence

Status = Literal["improving", "plateau", "no_signal", "collapsed", "budget_exhausted"]

LOOK_EVERY = 5
SMALLEST_WINDOW = 16
WINDOW_GROWTH = 1.5
FIRST_STEPS = 5
"""The level at which the curve began is the mean of this many steps."""
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
    window: int
    """Steps of the window with the lowest bound."""
    bound: float
    """Upper confidence bound of the gain over the next ``horizon`` steps, reward units."""
    alpha_spent: float
    """By this look and all before it."""
    rose: bool


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
    if look is not None and look.rose and look.bound < config.delta:
        reason = (
            f"the next {config.horizon} steps gain less than {config.delta:g} (upper bound {look.bound:.4f} from the "
            f"last {look.window} steps; alpha spent {look.alpha_spent:.4f} of {config.alpha:g})"
        )
        return Verdict("plateau", reason, True, look)
    return Verdict("improving", _improving(look, config), False, look)


def _silent(points: Seq[Point], look: Look | None, config: Convergence) -> Verdict:
    """Nothing left to learn, or never anything: the rise tells."""
    rewards = np.array([p.reward for p in points])
    reason = f"for {SILENT_STEPS} steps every group had equal rewards (now {points[-1].reward:.3f})"
    if len(points) > SILENT_STEPS and has_risen(rewards, SILENT_STEPS, config.alpha):
        return Verdict("plateau", f"{reason}, after a rise: no update changes the policy any more", True, look)
    advice = "there was nothing to learn from: make the task easier or harder, or give partial credit"
    return Verdict("no_signal", f"{reason}, {advice}", True, look)


def latest_look(points: Seq[Point], config: Convergence, warmup: int) -> Look | None:
    """The most recent scheduled look, or None before the first."""
    usable = np.array([p.reward for p in points[warmup:]])
    first = max(config.min_steps - warmup, SMALLEST_WINDOW)
    if len(usable) < first:
        return None
    number = (len(usable) - first) // LOOK_EVERY + 1
    return _look(usable[: first + (number - 1) * LOOK_EVERY], number, warmup, config)


def _look(rewards: np.ndarray, number: int, warmup: int, config: Convergence) -> Look:
    allowed = config.alpha * 6 / (math.pi * number) ** 2
    windows = window_lengths(len(rewards))
    bounds = [(gain_bound(rewards[-n:], config.horizon, allowed / len(windows)), n) for n in windows]
    bound, window = min(bounds)
    spent = sum(config.alpha * 6 / (math.pi * k) ** 2 for k in range(1, number + 1))
    return Look(
        step=warmup + len(rewards),
        window=window,
        bound=bound,
        alpha_spent=spent,
        rose=has_risen(rewards, window, config.alpha),
    )


def window_lengths(available: int) -> list[int]:
    """16, 24, 36, ... up to all steps there are."""
    lengths, length = [], float(SMALLEST_WINDOW)
    while length <= available:
        lengths.append(int(length))
        length *= WINDOW_GROWTH
    return lengths


def gain_bound(rewards: np.ndarray, horizon: int, alpha: float) -> float:
    """Upper (1 - alpha) bound of slope * horizon, by least squares with Student's t.

    For AR(1) residuals the variance is widened by ``w = (1 + r) / (1 - r)`` and the sample counts as n / w steps.
    """
    n = len(rewards)
    time = np.arange(n) - (n - 1) / 2
    slope = float(time @ rewards / (time @ time))
    residuals = rewards - rewards.mean() - slope * time
    widening = _widening(residuals)
    variance = widening * float(residuals @ residuals) / (n - 2)
    error = math.sqrt(variance / float(time @ time))
    return horizon * (slope + float(student.isf(alpha, max(1.0, n / widening - 2))) * error)


def _widening(residuals: np.ndarray) -> float:
    """(1 + r) / (1 - r) for the residuals' lag-1 autocorrelation r, never below 1.

    r is corrected for the bias that taking out a line causes, -(2 + 4 r) / n (Kendall 1954, Biometrika 41, 403).
    """
    total, n = float(residuals @ residuals), len(residuals)
    if total == 0.0:
        return 1.0
    measured = float(residuals[1:] @ residuals[:-1]) / total
    r = min(0.9, max(0.0, (n * measured + 2) / (n - 4)))
    return (1 + r) / (1 - r)


def has_risen(rewards: np.ndarray, window: int, alpha: float) -> bool:
    """Whether the last ``window`` steps lie above the first steps by more than noise, at level ``alpha``."""
    start, recent = rewards[:FIRST_STEPS], rewards[-min(window, len(rewards) - FIRST_STEPS) :]
    spread = float(np.std(np.diff(rewards), ddof=1)) / math.sqrt(2) if len(rewards) > 2 else math.inf
    error = spread * math.sqrt(1 / len(start) + 1 / len(recent))
    return float(recent.mean() - start.mean()) > float(student.isf(alpha, len(rewards) - 2)) * error


def _at_budget(look: Look | None, budget: int) -> Verdict:
    if look is not None and not look.rose:
        reason = f"after {budget} steps the reward is not significantly above where it began"
        return Verdict("no_signal", reason, True, look)
    reason = f"the budget of {budget} steps is used up before the curve could be certified flat"
    return Verdict("budget_exhausted", reason, True, look)


def _improving(look: Look | None, config: Convergence) -> str:
    if look is None:
        return "too few steps to judge"
    if not look.rose:
        return "not yet above where it began"
    return f"the next {config.horizon} steps may still gain up to {look.bound:.3f}"
