"""Which checkpoint a run returns: the best by lower confidence bound, not a lucky peak. Pure; no torch.

Held-out evaluations decide where there are any. Otherwise the training reward does: the rollouts of step t were
sampled after t updates, so the steps around t tell how good checkpoint t is.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from grpo.evaluate import best
from grpo.linefit import Floats, limit_spikes, typical_noise
from grpo.points import Point
from grpo.types import Evaluation

CANDIDATE_EVERY = 5
"""Only checkpoints after a multiple of this many updates are candidates by training reward."""
HALF_WINDOW = 20
"""The reward at a step is a line's through this many steps on either side, where there are as many."""
QUANTILE = 0.674
"""One-sided 75 %: a higher level would punish the newest checkpoints, which fewer steps tell about."""
RECENT = 15
"""Candidates of the latest steps are kept whatever their bounds: those still move."""
FEWEST = 8
"""With fewer steps the noise cannot be told, and the newest checkpoint is as good a choice as any."""


def choose(at_hand: Iterable[int], points: Seq[Point], evaluations: Seq[Evaluation]) -> int | None:
    """Updates of the checkpoint to return, among those ``at_hand``; None where there is none."""
    steps = sorted(at_hand)
    evaluated = best([e for e in evaluations if e.step in steps])
    if evaluated:
        return evaluated.step
    finite = [p for p in points if np.isfinite(p.reward)]
    if len(finite) >= FEWEST:
        bounds = lower_bounds(*_arrays(finite))[0]
        scored = {p.step: bound for p, bound in zip(finite, bounds, strict=True) if p.step in steps and p.step > 0}
        if scored:
            return max(scored, key=lambda step: (scored[step], step))
    return steps[-1] if steps else None


def keep(points: Seq[Point], at_hand: Iterable[int]) -> set[int]:
    """Checkpoints that may still turn out to be the best by training reward; all others may go."""
    candidates = {step for step in at_hand if step % CANDIDATE_EVERY == 0}
    recent = {step for step in candidates if points and step > points[-1].step - RECENT}
    chosen = choose(candidates, points, [])
    return recent | ({chosen} if chosen is not None else set())


def lower_bounds(rewards_RT: Floats, steps_T: Floats, half_window: int = HALF_WINDOW) -> Floats:
    """(R, T) one-sided 75 % lower bounds of the expected reward at every step of R curves, at least 8 steps.

    Local linear regression (Cleveland 1979, JASA 74, 829), which follows a rise up to its end.
    """
    calm = limit_spikes(rewards_RT)
    place = np.arange(rewards_RT.shape[1], dtype=np.float64)
    start = np.maximum(0, place - half_window).astype(int)
    end = np.minimum(len(place), place + half_window + 1).astype(int)
    length, middle = end - start, (start + end - 1) / 2
    squared = length * (length**2 - 1.0) / 12

    def over_windows(values_RT: Floats) -> Floats:
        total = np.concatenate([np.zeros((len(values_RT), 1)), np.cumsum(values_RT, 1)], 1)
        sums: Floats = total[:, end] - total[:, start]
        return sums

    rewards = over_windows(calm)
    slope = (over_windows(calm * place) - middle * rewards) / squared
    off = place - middle
    error = np.sqrt(typical_noise(calm, steps_T)[:, None] * (1 / length + off**2 / squared))
    bounds: Floats = rewards / length + slope * off - QUANTILE * error
    return bounds


def best_steps(rewards_RT: Floats, steps_T: Floats, half_window: int = HALF_WINDOW) -> NDArray[np.int64]:
    """(R,) index of the candidate with the highest lower bound."""
    allowed = steps_T % CANDIDATE_EVERY == 0
    bounds = np.where(allowed, lower_bounds(rewards_RT, steps_T, half_window), -np.inf)
    last: NDArray[np.int64] = bounds.shape[1] - 1 - bounds[:, ::-1].argmax(1)
    return last


def _arrays(points: Seq[Point]) -> tuple[Floats, Floats]:
    return np.array([[p.reward for p in points]]), np.array([p.step for p in points], dtype=np.float64)
