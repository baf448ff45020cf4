"""Is a curve flat, and may that be believed? Has it fallen? The statistics of the stop rule. Pure; no torch.

Arrays carry a leading axis R of independent curves, so that a run (R = 1) and a benchmark of thousands of simulated
curves go through the same lines. T counts the usable steps (after warm-up), N those of a window.
Derivation, assumptions and references: docs/convergence.md.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit, zeta

from grpo.falls import FIRST_STEPS, best_and_now, certain_fall
from grpo.linefit import Fit, Floats, fit
from grpo.points import without_difficulty

Bools = NDArray[np.bool_]

SPENDING = 1.5
"""Look k spends alpha * k ** -1.5 / zeta(1.5)."""
LOOK_EVERY = 5
LOOK_GROWTH = 1.05
LOOK_FARTHEST = 10
SMALLEST_WINDOW = 16
WINDOW_GROWTH = 1.5
AUTOCORRELATION_LEVEL = 0.2
"""The chance that a window's autocorrelation is larger than the value it is tested with."""
FEWEST_INDEPENDENT_STEPS = 10
"""Windows worth fewer independent steps certify nothing: their autocorrelation cannot be told."""
SWING_LEVEL = 0.2
"""The chance that a window is set aside as swinging although the curve in it is a line."""
LOOKS_FLAT_LEVEL = 0.2
"""A window whose gain bound at this level is below delta would have looked flat to a person."""
LESSON_ERRORS = 3.0
LESSON_FACTOR = 2.0
"""Once a window that looked flat was followed by a rise, only windows this many times as long are believed."""
FALLEN_ERRORS = 2.25
"""A curve this many standard errors below its best level is not certified flat."""
NOISE_WINDOWS = 4
"""The noise of a level is the median over this many of the shortest windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """R curves over the same T usable steps; steps may be missing."""

    rewards_RT: Floats
    steps_T: Floats
    weights_T: Floats | None = None
    """Completions behind each step; None: all alike."""
    difficulty_RT: Floats | None = None
    """Expected deviation of a step's mean by the prompts it drew; None: unknown."""

    def upto(self, seen: int) -> "Series":
        """The first ``seen`` steps, prompt difficulty removed."""
        rewards = self.rewards_RT[:, :seen]
        if self.difficulty_RT is not None:
            rewards = without_difficulty(rewards, self.difficulty_RT[:, :seen])
        weights = None if self.weights_T is None else self.weights_T[:seen]
        return Series(rewards_RT=rewards, steps_T=self.steps_T[:seen], weights_T=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """To certify: the next ``horizon`` steps gain less than ``delta``, at level ``alpha`` over all looks."""

    delta: float
    alpha: float
    horizon: int
    first: int
    """Usable steps at the first look."""
    ceiling: float = math.inf
    """Highest reward possible."""

    def level(self, look: int) -> float:
        """What look number ``look``, from 1, may spend of alpha; the sum over all looks is alpha."""
        return float(self.alpha * look**-SPENDING / zeta(SPENDING))


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
    noise: Floats
    """Long-run variance of one step: a mean of n steps has 1 / n of it."""
    rose: Bools
    """The level is more than delta above where the curve began, beyond noise."""
    fallen: Bools
    """The level is below the best one so far, beyond noise."""
    flat: Bools
    """Certified: the bound is below delta, the curve rose before and has not fallen."""
    fall: Floats
    """Lower bound of the distance from the best level down to the present one; below 0 where it may be none."""
    rise: Floats
    """From where the curve began to its best level."""


def looks(series: Series, criterion: Criterion) -> Iterator[LookResult]:
    """All looks due within T usable steps, in order. A look depends on the steps before it only."""
    needed = np.zeros(len(series.rewards_RT))
    memory: list[_Memory] = []
    spent = 0.0
    for number, seen in enumerate(look_steps(criterion.first, len(series.steps_T)), 1):
        level = criterion.level(number)
        spent += level
        view = _View(series.upto(seen), criterion.horizon)
        needed = np.maximum(needed, _lessons(memory, view, criterion))
        memory.append(view.remember(criterion))
        bound, window = view.lowest_bound(criterion, level, needed)
        rose = view.rose(window, criterion.delta, level)
        best, now = best_and_now(view.rewards_RT, criterion.horizon)
        fallen = best - now > FALLEN_ERRORS * np.sqrt(2 * view.variance / criterion.horizon)
        yield LookResult(
            seen=seen,
            spent=spent,
            bound=bound,
            window=window,
            noise=view.variance,
            rose=rose,
            fallen=fallen,
            flat=(bound < criterion.delta) & rose & ~fallen,
            fall=certain_fall(view.rewards_RT, view.steps_T, criterion.horizon),
            rise=best - view.began(),
        )


def has_risen(series: Series, window: int, level: float) -> Bools:
    """Whether the last ``window`` of at least 16 steps lie above the first ones, beyond noise."""
    view = _View(series.upto(len(series.steps_T)), window)
    return view.rose(np.full(len(series.rewards_RT), window), 0.0, level)


def certifiable(noise: float, steps: int, criterion: Criterion) -> float:
    """The smallest gain over the horizon that could be certified by ``steps`` flat steps with independent noise.

    ``noise`` is the variance of one step's mean reward. A curve that rises first, or correlated noise, needs more.
    """
    windows = window_lengths(steps)
    if not windows or steps < criterion.first:
        return math.inf
    number = sum(1 for _ in look_steps(criterion.first, steps))
    zero, variance = np.zeros(1), np.full(1, noise)
    n = windows[-1]
    line = Fit(zero, zero, variance, zero, n * (n * n - 1) / 12, n, variance, 0)
    return float(line.gain_bound(criterion.horizon, criterion.level(number) / len(windows), _caution())[0])


def look_steps(first: int, upto: int) -> Iterator[int]:
    """Usable steps at which the curve is looked at: every 5, then every 5 % of the way, then every 10."""
    seen = first
    while seen <= upto:
        yield seen
        seen += max(LOOK_EVERY, min(LOOK_FARTHEST, int(seen * (LOOK_GROWTH - 1))))


def window_lengths(available: int) -> list[int]:
    """16, 24, 36, ... up to all steps there are."""
    lengths = (int(SMALLEST_WINDOW * WINDOW_GROWTH**i) for i in count())
    return list(takewhile(lambda length: length <= available, lengths))


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

    def __init__(self, series: Series, horizon: int) -> None:
        self.rewards_RT, self.steps_T = series.rewards_RT, series.steps_T
        self.windows = np.array(window_lengths(len(series.steps_T)))
        weights = series.weights_T
        self.fits: list[Fit] = [
            fit(series.rewards_RT[:, -n:], series.steps_T[-n:], None if weights is None else weights[-n:], horizon)
            for n in self.windows
        ]
        # short windows, so that swings of the curve itself do not pass for noise
        self.variance: Floats = np.median([f.long_run_variance() for f in self.fits[:NOISE_WINDOWS]], axis=0)

    def lowest_bound(self, c: Criterion, level: float, needed: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """The lowest gain bound of the windows that are long enough to be believed, and its window."""
        caution = _caution()
        tests = len(self.fits) * (2 if math.isfinite(c.ceiling) else 1)
        bounds = np.stack([f.gain_bound(c.horizon, level / tests, caution) for f in self.fits])
        if math.isfinite(c.ceiling):
            bounds = np.minimum(bounds, [f.room_bound(c.ceiling, level / tests, caution) for f in self.fits])
        worth = np.stack([f.independent_steps(caution) for f in self.fits])
        swinging = np.stack([f.swings(SWING_LEVEL, caution) for f in self.fits])
        believed = (worth >= FEWEST_INDEPENDENT_STEPS) & (self.windows[:, None] >= needed) & ~swinging
        bounds = np.where(believed, bounds, np.inf)
        chosen = bounds.argmin(0)
        return bounds[chosen, np.arange(bounds.shape[1])], self.windows[chosen]

    def began(self) -> Floats:
        """The level of the first steps."""
        level: Floats = self.rewards_RT[:, :FIRST_STEPS].mean(1)
        return level

    def rose(self, window: NDArray[np.int64], margin: float, level: float) -> Bools:
        """Whether the mean of the last ``window`` steps is more than ``margin`` above the first steps."""
        seen = self.rewards_RT.shape[1]
        recent = np.minimum(window, seen - FIRST_STEPS)
        error = np.sqrt(self.variance * (1 / FIRST_STEPS + 1 / recent))
        above = _mean_of_last(self.rewards_RT, recent) - self.began()
        risen: Bools = above > margin + -float(stdtrit(seen - 2, level)) * error
        return risen

    def remember(self, c: Criterion) -> _Memory:
        """The longest window that looks flat now (0: none), and the level of its last steps."""
        bounds = np.stack([f.gain_bound(c.horizon, LOOKS_FLAT_LEVEL, 0.0) for f in self.fits])
        longest = np.where(bounds < c.delta, self.windows[:, None], 0).max(0)
        last = np.minimum(np.maximum(longest, 1), c.horizon)
        level = _mean_of_last(self.rewards_RT, last)
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


def _mean_of_last(rewards_RT: Floats, steps_R: NDArray[np.int64]) -> Floats:
    total = np.cumsum(rewards_RT[:, ::-1], 1)
    mean: Floats = total[np.arange(len(total)), steps_R - 1] / steps_R
    return mean


def _caution() -> float:
    return -float(ndtri(AUTOCORRELATION_LEVEL))
