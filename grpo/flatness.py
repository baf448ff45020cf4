"""Is a curve flat, and may that be believed? The statistics of the stop rule, for many curves at once. Pure; no torch.

Arrays carry a leading axis R of independent curves, so that a run (R = 1) and a benchmark of thousands of simulated
curves go through the same lines. T counts the usable steps (after warm-up), N those of a window.
Derivation, assumptions and references: docs/convergence.md.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LOOK_EVERY = 5
LOOK_GROWTH = 1.05
SMALLEST_WINDOW = 16
WINDOW_GROWTH = 1.5
FIRST_STEPS = 5
"""The level at which the curve began is the mean of this many steps."""
AUTOCORRELATION_LEVEL = 0.05
"""The chance that a window's autocorrelation is larger than the value it is tested with."""
LARGEST_AUTOCORRELATION = 0.95
FEWEST_INDEPENDENT_STEPS = 10
"""Windows worth fewer independent steps certify nothing: their autocorrelation cannot be told."""
LOOKS_FLAT_LEVEL = 0.2
"""A window whose gain bound at this level is below delta would have looked flat to a person."""
LESSON_ERRORS = 3.0
LESSON_FACTOR = 2.0
"""Once a window that looked flat was followed by a rise, only windows this many times as long are believed."""
FALLEN_ERRORS = 3.0
NOISE_WINDOWS = 4
"""The noise of a level is the median over this many of the shortest windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """To certify: the next ``horizon`` steps gain less than ``delta``, at level ``alpha`` over all looks."""

    delta: float
    alpha: float
    horizon: int
    first: int
    """Usable steps at the first look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookResult:
    """One look at R curves. All but ``seen`` and ``spent`` have shape (R,)."""

    seen: int
    """Usable steps so far."""
    spent: float
    """Of alpha, by this look and all before it."""
    bound: Floats
    """Lowest upper bound of the gain over the next ``horizon`` steps, among the windows that are believed."""
    window: NDArray[np.int64]
    """Steps of the window with that bound."""
    rose: Bools
    """The level is more than delta above where the curve began, beyond noise."""
    fallen: Bools
    """The level is below the best one so far, beyond noise."""
    flat: Bools
    """Certified: the bound is below delta, the curve rose before and has not fallen."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A straight line through a window of R curves; all of shape (R,)."""

    slope: Floats
    variance: Floats
    """Of the residuals."""
    autocorrelation: Floats
    """Lag 1, corrected for bias; in [0, LARGEST_AUTOCORRELATION]."""
    time_squared: float
    length: int

    def long_run_variance(self) -> Floats:
        """Variance of a mean of many steps, times their number."""
        return self.variance * _widening(self.autocorrelation)

    def gain_bound(self, horizon: int, level: float, caution: float) -> Floats:
        """Upper (1 - level) bound of slope * horizon, with Student's t.

        The autocorrelation used is ``caution`` standard errors above the estimate; the window then counts as
        N / w independent steps, w = (1 + r) / (1 - r).
        """
        w = _widening(self._cautious(caution))
        error = np.sqrt(w * self.variance / self.time_squared)
        quantile = -stdtrit(np.maximum(1.0, self.length / w - 2), level)
        bound: Floats = horizon * (self.slope + quantile * error)
        return bound

    def independent_steps(self, caution: float) -> Floats:
        """How many independent steps the window is worth."""
        return self.length / _widening(self._cautious(caution))

    def _cautious(self, caution: float) -> Floats:
        r = self.autocorrelation
        return np.minimum(LARGEST_AUTOCORRELATION, r + caution * np.sqrt((1 - r**2) / self.length))


def fit(rewards_RN: Floats, steps_N: Floats) -> Fit:
    """Least squares; the lag-1 autocorrelation is corrected for the bias -(2 + 4 r) / n that a fitted line causes.

    After Kendall (1954), Biometrika 41, 403, who has -(1 + 4 r) / n for a fitted mean.
    """
    n = len(steps_N)
    time = steps_N - steps_N.mean()
    squared = float(time @ time)
    slope = rewards_RN @ time / squared
    residuals = rewards_RN - rewards_RN.mean(1, keepdims=True) - slope[:, None] * time
    total = (residuals**2).sum(1)
    products = (residuals[:, 1:] * residuals[:, :-1]).sum(1)
    measured = np.divide(products, total, out=np.full_like(total, -2 / n), where=total > 0)
    r = np.clip((n * measured + 2) / (n - 4), 0, LARGEST_AUTOCORRELATION)
    return Fit(slope, total / (n - 2), r, squared, n)


def looks(rewards_RT: Floats, steps_T: Floats, criterion: Criterion) -> Iterator[LookResult]:
    """All looks due within T usable steps, in order. A look depends on the steps before it only."""
    needed = np.zeros(len(rewards_RT))
    memory: list[_Memory] = []
    spent = 0.0
    for number, seen in enumerate(look_steps(criterion.first, rewards_RT.shape[1]), 1):
        level = criterion.alpha * 6 / (math.pi * number) ** 2
        spent += level
        view = _View(rewards_RT[:, :seen], steps_T[:seen])
        needed = np.maximum(needed, _lessons(memory, view, criterion))
        memory.append(view.remember(criterion))
        bound, window = view.lowest_bound(criterion, level, needed)
        rose, fallen = view.rose(window, criterion.delta, level), view.fallen(criterion.horizon)
        flat = (bound < criterion.delta) & rose & ~fallen
        yield LookResult(seen=seen, spent=spent, bound=bound, window=window, rose=rose, fallen=fallen, flat=flat)


def has_risen(rewards_RT: Floats, steps_T: Floats, window: int, level: float) -> Bools:
    """Whether the last ``window`` of at least 16 steps lie above the first ones, beyond noise."""
    return _View(rewards_RT, steps_T).rose(np.full(len(rewards_RT), window), 0.0, level)


def look_steps(first: int, upto: int) -> Iterator[int]:
    """Usable steps at which the curve is looked at: every 5, and at most every 5 % of the way."""
    seen = first
    while seen <= upto:
        yield seen
        seen = max(seen + LOOK_EVERY, int(seen * LOOK_GROWTH))


def window_lengths(available: int) -> list[int]:
    """16, 24, 36, ... up to all steps there are."""
    lengths, length = [], float(SMALLEST_WINDOW)
    while length <= available:
        lengths.append(int(length))
        length *= WINDOW_GROWTH
    return lengths


@dataclass(slots=True)
class _Memory:
    """A look that may later teach a lesson: how long the curve looked flat, and at what level."""

    seen: int
    window: Floats
    level: Floats
    variance: Floats
    """Of ``level``."""
    judged: bool = False


class _View:
    """The curves up to one look, with a line through every window."""

    def __init__(self, rewards_RT: Floats, steps_T: Floats) -> None:
        self.rewards_RT = rewards_RT
        self.windows = np.array(window_lengths(len(steps_T)))
        self.fits = [fit(rewards_RT[:, -n:], steps_T[-n:]) for n in self.windows]
        # short windows, so that swings of the curve itself do not pass for noise
        self.variance: Floats = np.median([f.long_run_variance() for f in self.fits[:NOISE_WINDOWS]], axis=0)

    def lowest_bound(self, c: Criterion, level: float, needed: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """The lowest gain bound of the windows that are long enough to be believed, and its window."""
        caution = -float(ndtri(AUTOCORRELATION_LEVEL))
        bounds = np.stack([f.gain_bound(c.horizon, level / len(self.fits), caution) for f in self.fits])
        worth = np.stack([f.independent_steps(caution) for f in self.fits])
        believed = (worth >= FEWEST_INDEPENDENT_STEPS) & (self.windows[:, None] >= needed)
        bounds = np.where(believed, bounds, np.inf)
        chosen = bounds.argmin(0)
        return bounds[chosen, np.arange(bounds.shape[1])], self.windows[chosen]

    def rose(self, window: NDArray[np.int64], margin: float, level: float) -> Bools:
        """Whether the mean of the last ``window`` steps is more than ``margin`` above the first steps."""
        seen = self.rewards_RT.shape[1]
        recent = np.minimum(window, seen - FIRST_STEPS)
        total = np.cumsum(self.rewards_RT[:, ::-1], 1)
        level_now = total[np.arange(len(total)), recent - 1] / recent
        error = np.sqrt(self.variance * (1 / FIRST_STEPS + 1 / recent))
        began = self.rewards_RT[:, :FIRST_STEPS].mean(1)
        risen: Bools = level_now - began > margin + -float(stdtrit(seen - 2, level)) * error
        return risen

    def fallen(self, horizon: int) -> Bools:
        """Whether the mean of the last ``horizon`` steps is below the best such mean before."""
        length = min(horizon, self.rewards_RT.shape[1])
        means = np.lib.stride_tricks.sliding_window_view(self.rewards_RT, length, axis=1).mean(-1)
        below: Bools = means.max(1) - means[:, -1] > FALLEN_ERRORS * np.sqrt(2 * self.variance / length)
        return below

    def remember(self, c: Criterion) -> _Memory:
        """The longest window that looks flat now (0: none), and the level of its last steps."""
        bounds = np.stack([f.gain_bound(c.horizon, LOOKS_FLAT_LEVEL, 0.0) for f in self.fits])
        longest = np.where(bounds < c.delta, self.windows[:, None], 0).max(0)
        last = np.minimum(np.maximum(longest, 1), c.horizon)
        total = np.cumsum(self.rewards_RT[:, ::-1], 1)
        level = total[np.arange(len(total)), last - 1] / last
        return _Memory(self.rewards_RT.shape[1], longest.astype(float), level, self.variance / last)


def _lessons(memory: list[_Memory], view: _View, c: Criterion) -> Floats:
    """The shortest window to believe from now on, by the looks whose future has come to pass; 0 where none erred."""
    needed = np.zeros(len(view.rewards_RT))
    for past in memory:
        start, end = past.seen + c.horizon // 2, past.seen + c.horizon // 2 + c.horizon
        if past.judged or end > view.rewards_RT.shape[1]:
            continue
        past.judged = True
        gain = view.rewards_RT[:, start:end].mean(1) - past.level
        error = np.sqrt(past.variance + view.variance / c.horizon)
        erred = (past.window > 0) & (gain > c.delta + LESSON_ERRORS * error)
        needed = np.maximum(needed, np.where(erred, LESSON_FACTOR * past.window, 0))
    return needed


def _widening(autocorrelation: Floats) -> Floats:
    """Long-run over one-step variance of an AR(1) process."""
    return (1 + autocorrelation) / (1 - autocorrelation)
