"""When to stop: a verdict from the stream of step rewards and held-out evaluations. Pure; no torch.

The rule rejects H0 "the expected reward gains at least ``delta`` over the next ``horizon`` steps" at level ``alpha``;
the statistics are in flatness.py, derivation and references in docs/convergence.md. A curve that never rose is
``no_signal``, never converged.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from grpo import health, heldout
from grpo.falls import stands_above_start
from grpo.flatness import SMALLEST_WINDOW, Criterion, LookResult, Series, has_risen, looks
from grpo.points import Point, difficulty
from grpo.sections import Convergence
from grpo.types import Evaluation

Status = Literal["improving", "plateau", "converged_ceiling", "no_signal", "regressed", "collapsed", "budget_exhausted"]

SILENT_STEPS = 20
"""This many steps in a row without a single group that carries a gradient end the run."""
PATIENCE = 2
"""Horizons that a regression must last before it ends the run: many recover."""
LOST = 0.5
"""A fall by more than this share of the rise is a collapse."""
DECAYED = 0.5
"""A plateau under a learning rate below this share of its peak may be the schedule's doing."""


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
    noise: float
    """Standard deviation of one step's mean reward; correlated noise counts as the independent noise it equals."""
    rose: bool
    """More than delta above where the curve began, beyond noise."""
    fallen: bool
    """Below the best level so far, beyond noise."""
    fall: float
    """Lower bound of the distance from the best level down to the present one."""
    rise: float
    """From where the curve began to its best level."""
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


def judge(
    points: Seq[Point], evaluations: Seq[Evaluation], config: Convergence, *, warmup: int, budget: int
) -> Verdict:
    """The verdict after the last of ``points``; a pure function of the whole history, so resuming changes nothing."""
    verdict = curve_verdict(points, evaluations, all_looks(points, config, warmup), config)
    if len(points) < budget:
        return replace(verdict, stop=verdict.stop and config.stop)
    if verdict.status != "improving":
        return replace(verdict, stop=True)
    return _at_budget(points, verdict.look, budget)


def curve_verdict(points: Seq[Point], evaluations: Seq[Evaluation], due: Seq[Look], config: Convergence) -> Verdict:
    """What the curve says, whatever the budget; ``due``: all looks up to the last of ``points``."""
    look = due[-1] if due else None
    if not points:
        return Verdict("improving", "too few steps to judge", False, look)
    return (
        _broken(points, look)
        or _silent(points, look, config)
        or _fallen(points, due, config)
        or _degenerate(points, look, config)
        or _heldout_fallen(evaluations, look, config)
        or _flat(points, evaluations, look, config)
        or Verdict("improving", _improving(look, config), False, look)
    )


def all_looks(points: Seq[Point], config: Convergence, warmup: int) -> list[Look]:
    """Every look due so far, up to the first reward that is not a number."""
    usable = points[warmup:]
    unusable = (i for i, p in enumerate(usable) if not math.isfinite(p.reward))
    usable = usable[: next(unusable, len(usable))]
    return [_look(result, usable) for result in looks(series(usable), criterion(config, warmup))]


def criterion(config: Convergence, warmup: int) -> Criterion:
    """What the configuration asks to be certified."""
    return Criterion(
        delta=config.delta,
        alpha=config.alpha,
        horizon=config.horizon,
        first=max(config.min_steps - warmup, SMALLEST_WINDOW),
        ceiling=math.inf if config.ceiling is None else config.ceiling,
    )


def series(points: Seq[Point]) -> Series:
    """One curve (R = 1), with weights and prompt difficulty where they are known."""
    sizes = [p.completions for p in points]
    weights = np.array(sizes, dtype=np.float64) if sizes and all(sizes) else None
    return Series(
        rewards_RT=np.array([[p.reward for p in points]], dtype=np.float64),
        steps_T=np.array([p.step for p in points], dtype=np.float64),
        weights_T=weights,
        difficulty_RT=difficulty(points)[None],
    )


def _broken(points: Seq[Point], look: Look | None) -> Verdict | None:
    found = health.broken(points)
    return Verdict("collapsed", f"{found.cause}. {found.advice}", True, look) if found else None


def _degenerate(points: Seq[Point], look: Look | None, config: Convergence) -> Verdict | None:
    """Only where the reward has not risen: a policy that has learned may well be sure of itself."""
    if look is None or look.rose or look.rise > config.delta:
        return None
    found = health.degenerate(points)
    return Verdict("collapsed", f"{found.cause}. {found.advice}", True, look) if found else None


def _silent(points: Seq[Point], look: Look | None, config: Convergence) -> Verdict | None:
    """Not a single gradient for a long time: nothing left to learn, or never anything; the rise tells."""
    recent = points[-SILENT_STEPS:]
    if len(points) < max(config.min_steps, SILENT_STEPS) or any(p.signal_share != 0 for p in recent):
        return None
    reason = f"for {SILENT_STEPS} steps every group had equal rewards (now {points[-1].reward:.3f})"
    if len(points) > SILENT_STEPS and has_risen(series(points), SILENT_STEPS, config.alpha)[0]:
        reason += ", after a rise: no update changes the policy any more"
        return Verdict(_level_status(points, SILENT_STEPS, config), reason, True, look)
    found = health.why_silent(points)
    return Verdict("no_signal", f"{reason}: {found.cause}. {found.advice}", True, look)


def _fallen(points: Seq[Point], due: Seq[Look], config: Convergence) -> Verdict | None:
    """The reward is certainly more than delta below its best level."""
    if not due or due[-1].fall <= config.delta:
        return None
    look, found = due[-1], health.why_fallen(points)
    reason = (
        f"the reward is at least {look.fall:.3f} below its best level: {found.cause}. {found.advice}; "
        "the checkpoint from before the fall is kept"
    )
    if look.fall > LOST * look.rise:
        return Verdict("collapsed", reason, True, look)
    since = look.step
    for earlier in reversed(due):
        if earlier.fall <= config.delta:
            break
        since = earlier.step
    return Verdict("regressed", reason, look.step - since >= PATIENCE * config.horizon, look)


def _heldout_fallen(evaluations: Seq[Evaluation], look: Look | None, config: Convergence) -> Verdict | None:
    found = heldout.fall(evaluations, config.delta)
    if found is None:
        return None
    reason = (
        f"the held-out reward fell by {-found.mean:.3f} ± {found.error:.3f} from step {found.first} to "
        f"{found.second} while the training reward did not: the policy learns its training prompts by heart or "
        "exploits the reward. Use more prompts, or set update.kl_coef"
    )
    again = heldout.fall(evaluations[:-1], config.delta)
    return Verdict("regressed", reason, again is not None, look)


def _flat(points: Seq[Point], evaluations: Seq[Evaluation], look: Look | None, config: Convergence) -> Verdict | None:
    if look is None or not look.flat:
        return None
    assert look.bound is not None  # a certified look has both
    assert look.window is not None
    gaining = heldout.veto(evaluations, config.delta, config.horizon)
    if gaining:
        reason = (
            f"the training reward is flat, but held-out prompts gained {gaining.mean:.3f} ± {gaining.error:.3f} "
            f"from step {gaining.first} to {gaining.second}"
        )
        return Verdict("improving", reason, False, look)
    reason = (
        f"the next {config.horizon} steps gain less than {config.delta:g} (upper bound {look.bound:.4f} from the "
        f"last {look.window} steps; alpha spent {look.alpha_spent:.4f} of {config.alpha:g})"
    )
    return Verdict(_level_status(points, look.window, config), reason + _schedule_note(points), True, look)


def _level_status(points: Seq[Point], window: int, config: Convergence) -> Status:
    """A plateau within delta of the highest reward possible, or else ever given, is a ceiling."""
    known = [p.highest for p in points if p.highest is not None]
    ceiling = config.ceiling if config.ceiling is not None else max(known, default=math.inf)
    level = float(np.mean([p.reward for p in points[-window:]]))
    return "converged_ceiling" if ceiling - level <= config.delta else "plateau"


def _schedule_note(points: Seq[Point]) -> str:
    """A decaying learning rate flattens any curve."""
    rates = [p.learning_rate for p in points if p.learning_rate is not None]
    if not rates or rates[-1] >= DECAYED * max(rates):
        return ""
    share = rates[-1] / max(rates)
    return f"; the learning rate is down to {share:.0%} of its peak, so the schedule may have flattened the curve"


def _look(result: LookResult, usable: Seq[Point]) -> Look:
    bound = float(result.bound[0])
    believed = math.isfinite(bound)
    return Look(
        step=usable[result.seen - 1].step + 1,
        window=int(result.window[0]) if believed else None,
        bound=bound if believed else None,
        alpha_spent=result.spent,
        noise=math.sqrt(float(result.noise[0])),
        rose=bool(result.rose[0]),
        fallen=bool(result.fallen[0]),
        fall=float(result.fall[0]),
        rise=float(result.rise[0]),
        flat=bool(result.flat[0]),
    )


def _at_budget(points: Seq[Point], look: Look | None, budget: int) -> Verdict:
    rewards = np.array([[p.reward for p in points if math.isfinite(p.reward)]])
    if look is not None and not look.rose and not stands_above_start(rewards)[0]:
        found = health.why_silent(points)
        reason = (
            f"after {budget} steps the reward is not significantly above where it began: {found.cause}. {found.advice}"
        )
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
