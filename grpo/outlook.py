"""What a run can expect: the smallest gain it can certify, and where its curve is going. Never decides. Pure."""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from grpo.config import Config
from grpo.convergence import criterion, series
from grpo.flatness import certifiable
from grpo.forecast import forecast
from grpo.heldout import VETO_ERRORS
from grpo.points import Point

COIN_VARIANCE = 0.25
"""Of one reward in [0, 1] at its noisiest, right half of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Where the curve is going, with 90 % intervals (low, median, high); None where nothing can be fitted yet."""

    stop_steps: tuple[int, int, int] | None
    """Steps after which the curve will be certified flat; the budget where that is not before."""
    stop_rewards: tuple[float, float, float] | None
    """Expected reward there."""


def forecast_of(points: Seq[Point], config: Config) -> Outlook:
    """The forecast after the last of ``points``."""
    warmup = config.update.warmup_steps
    usable = points[warmup:]
    if not usable or not all(math.isfinite(p.reward) for p in usable):
        return Outlook(stop_steps=None, stop_rewards=None)
    found = forecast(series(usable), criterion(config.convergence, warmup), config.run.steps - warmup)
    if found is None:
        return Outlook(stop_steps=None, stop_rewards=None)
    low, middle, high = (step + warmup for step in found.steps)
    return Outlook(stop_steps=(low, middle, high), stop_rewards=found.reward)


def smallest_gain(config: Config) -> float:
    """What the run could certify at best: rewards in [0, 1], flat from the start to the budget."""
    rollouts = config.rollout.prompts_per_step * config.rollout.completions_per_prompt
    warmup = config.update.warmup_steps
    return certifiable(COIN_VARIANCE / rollouts, config.run.steps - warmup, criterion(config.convergence, warmup))


def resolution(config: Config, heldout_prompts: int) -> str:
    """What is said at the start of a run, with a warning where delta is out of reach."""
    rule, rollouts = config.convergence, config.rollout.prompts_per_step * config.rollout.completions_per_prompt
    gain = smallest_gain(config)
    size = "no gain" if math.isinf(gain) else f"a gain below {gain:.3f} over {rule.horizon} steps"
    text = f"{config.run.steps} steps of {rollouts} completions can certify {size} at best; delta is {rule.delta:g}"
    if heldout_prompts:
        seen = heldout_resolution(heldout_prompts * config.evaluate.completions_per_prompt)
        text += f"; a held-out evaluation can see a change above {seen:.3f} at best"
    if gain <= rule.delta:
        return text
    return f"{text}. The stop rule may not fire before the budget: raise run.steps, the batch, or convergence.delta"


def heldout_resolution(completions: int) -> float:
    """The smallest change of a held-out mean over independent rewards in [0, 1] that could be a veto."""
    return VETO_ERRORS * math.sqrt(2 * COIN_VARIANCE / completions)
