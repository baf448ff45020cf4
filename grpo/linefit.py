"""A straight line through a stretch of a noisy curve, and how sure its slope is. Pure; no torch.

Arrays carry a leading axis R of independent curves; N counts the steps of the stretch.
Derivation and references: docs/convergence.md.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, stdtrit

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LARGEST_AUTOCORRELATION = 0.95
FEWEST_BLOCKS = 5
SPIKE = 6.0
MAD_TO_SD = 1.4826
"""Of a normal law: standard deviation over median absolute value."""
STRETCH = 48
"""Steps of the stretches from which the noise of a whole curve is estimated."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A line through one stretch of R curves; arrays have shape (R,)."""

    slope: Floats
    mean: Floats
    """Weighted mean of the rewards."""
    variance: Floats
    """Of one step's noise, at mean weight."""
    autocorrelation: Floats
    """Lag 1, corrected for bias; in [0, LARGEST_AUTOCORRELATION]."""
    time_squared: float
    """Weighted sum of squared distances from the mean step."""
    length: int
    block_variance: Floats
    """Variance of the residuals' means over blocks, times their length: what long_run_variance is for a true line."""
    blocks: int
    """Fewer than FEWEST_BLOCKS cannot tell."""

    def long_run_variance(self, caution: float = 0.0) -> Floats:
        """Variance of a mean of many steps, times their number."""
        return self.variance * widening(self._cautious(caution))

    def swings(self, level: float, caution: float) -> Bools:
        """Whether block means scatter around the line more than its noise explains: a curve, not a line."""
        if self.blocks < FEWEST_BLOCKS:
            return np.zeros(len(self.slope), dtype=np.bool_)
        freedom = self.blocks - 2
        swinging: Bools = self.block_variance * freedom > chdtri(freedom, level) * self.long_run_variance(caution)
        return swinging

    def gain_bound(self, horizon: int, level: float, caution: float) -> Floats:
        """Upper (1 - level) bound of slope * horizon, with Student's t.

        The autocorrelation used is ``caution`` standard errors above the estimate; the stretch then counts as N / w
        independent steps, w = (1 + r) / (1 - r).
        """
        w = widening(self._cautious(caution))
        error = np.sqrt(w * self.variance / self.time_squared)
        bound: Floats = horizon * (self.slope + self._quantile(w, level) * error)
        return bound

    def room_bound(self, ceiling: float, level: float, caution: float) -> Floats:
        """Upper (1 - level) bound of the distance from the mean to ``ceiling``, the highest reward possible."""
        w = widening(self._cautious(caution))
        bound: Floats = ceiling - self.mean + self._quantile(w, level) * np.sqrt(w * self.variance / self.length)
        return bound

    def independent_steps(self, caution: float) -> Floats:
        """How many independent steps the stretch is worth."""
        return self.length / widening(self._cautious(caution))

    def _quantile(self, w: Floats, level: float) -> Floats:
        quantile: Floats = -stdtrit(np.maximum(1.0, self.length / w - 2), level)
        return quantile

    def _cautious(self, caution: float) -> Floats:
        r = self.autocorrelation
        return np.minimum(LARGEST_AUTOCORRELATION, r + caution * np.sqrt((1 - r**2) / self.length))


def fit(rewards_RN: Floats, steps_N: Floats, weights_N: Floats | None = None, block: int = 20) -> Fit:
    """Weighted least squares; the lag-1 autocorrelation of the residuals is corrected for bias.

    ``weights_N``: inverse noise variances on any scale, for instance completions per step; None: all alike. A fitted
    line biases the autocorrelation by -(2 + 4 r) / n, after Kendall (1954), Biometrika 41, 403, who has
    -(1 + 4 r) / n for a fitted mean.
    """
    n = len(steps_N)
    w = np.ones(n) if weights_N is None else weights_N * (n / weights_N.sum())
    mean = rewards_RN @ w / n
    time = steps_N - steps_N @ w / n
    squared = float(w @ time**2)
    slope = rewards_RN @ (w * time) / squared
    residuals = np.sqrt(w) * (rewards_RN - mean[:, None] - slope[:, None] * time)
    total = (residuals**2).sum(1)
    products = (residuals[:, 1:] * residuals[:, :-1]).sum(1)
    measured = np.divide(products, total, out=np.full_like(total, -2 / n), where=total > 0)
    r = np.clip((n * measured + 2) / (n - 4), 0, LARGEST_AUTOCORRELATION)
    blocks = n // block
    means = residuals[:, n - blocks * block :].reshape(len(slope), blocks, block).mean(2)
    between = block * (means**2).sum(1) / max(1, blocks - 2)
    return Fit(slope, mean, total / (n - 2), r, squared, n, between, blocks)


def typical_noise(rewards_RT: Floats, steps_T: Floats, caution: float = 0.0) -> Floats:
    """Long-run variance of the noise, shape (R,): the lower median over stretches of the curve: kinks do not count.

    At least 8 steps are needed. Stretches have 48 steps and overlap by half; a shorter curve is one stretch.
    """
    seen = len(steps_T)
    ends = range(seen, STRETCH - 1, -STRETCH // 2) if seen >= STRETCH else [seen]
    parts = [slice(max(0, end - STRETCH), end) for end in ends]
    fits = [fit(rewards_RT[:, p], steps_T[p]) for p in parts]
    noises: Floats = np.sort([f.long_run_variance(caution) for f in fits], axis=0)
    typical: Floats = noises[(len(fits) - 1) // 2]
    return typical


def limit_spikes(rewards_RT: Floats) -> Floats:
    """The curves with single odd steps pulled in: at most 6 robust standard deviations from the median of three.

    The three are the step and the two before it, the deviation comes from differences of neighbours.
    """
    a, b, c = rewards_RT[:, :-2], rewards_RT[:, 1:-1], rewards_RT[:, 2:]
    middle = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    spread = MAD_TO_SD / math.sqrt(2) * np.median(np.abs(np.diff(rewards_RT, axis=1)), axis=1, keepdims=True)
    calm = rewards_RT.copy()
    calm[:, 2:] = np.clip(c, middle - SPIKE * spread, middle + SPIKE * spread)
    return calm


def widening(autocorrelation: Floats) -> Floats:
    """Long-run over one-step variance of an AR(1) process."""
    return (1 + autocorrelation) / (1 - autocorrelation)
