"""Where a curve is going: the step at which it will be certified flat, and the reward there. Advisory; never decides.

Saturating exponential (the shape of GRPO curves in arXiv 2507.18014) or sigmoid (arXiv 2510.13786), by Akaike's
criterion. Intervals come from parameters drawn from the fit's covariance, widened for autocorrelated residuals, and
from the noise to come.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from grpo.flatness import Criterion, Series, looks
from grpo.linefit import Fit, Floats, fit, widening

DRAWS = 100
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Medians with 90 % intervals."""

    shape: str
    """exponential or sigmoid."""
    steps: tuple[int, int, int]
    """Usable steps at which the curve is certified flat; the budget where that is not before."""
    reward: tuple[float, float, float]
    """Expected reward there."""


def exponential(t: Floats, end: float, below: float, tau: float) -> Floats:
    """``end`` - ``below`` * exp(-t / tau)."""
    value: Floats = end - below * np.exp(-t / tau)
    return value


def sigmoid(t: Floats, start: float, rise: float, middle: float, scale: float) -> Floats:
    """From ``start`` up by ``rise``, half of it at step ``middle``."""
    value: Floats = start + rise * expit((t - middle) / scale)
    return value


def forecast(series: Series, criterion: Criterion, budget: int) -> Forecast | None:
    """From the usable steps of one curve (R = 1) to at most ``budget`` of them; None where neither shape fits.

    Each draw continues the curve with one shape and noise like the residuals', and the rule itself is run on it.
    """
    known = series.upto(len(series.steps_T))
    t, rewards = known.steps_T - known.steps_T[0], known.rewards_RT[0]
    shapes = [found for found in (_exponential(t, rewards), _sigmoid(t, rewards)) if found]
    if not shapes or budget <= len(t):
        return None
    shape, parameters, covariance, residuals = min(shapes, key=_akaike)
    line, rng = fit(residuals[None], t), np.random.default_rng(0)
    widened = covariance * widening(line.autocorrelation)[0]
    drawn = rng.multivariate_normal(parameters, widened, DRAWS, check_valid="ignore")
    time = np.arange(budget, dtype=np.float64)
    curves = np.clip(np.stack([shape(time, *p) for p in drawn]), None, criterion.ceiling)
    futures = curves + _noise(line, residuals[-1], curves.shape, len(t), rng)
    futures[:, : len(t)] = rewards
    stops = _stops(futures, criterion)
    steps = np.quantile(stops, QUANTILES)
    levels = np.quantile(curves[np.arange(DRAWS), stops - 1], QUANTILES)
    return Forecast(
        shape=shape.__name__,
        steps=(int(steps[0]), int(steps[1]), int(steps[2])),
        reward=(float(levels[0]), float(levels[1]), float(levels[2])),
    )


def _noise(line: Fit, last: float, shape: tuple[int, ...], seen: int, rng: np.random.Generator) -> Floats:
    """AR(1) noise with the residuals' variance and autocorrelation, going on from the ``last`` of them."""
    r, spread = float(line.autocorrelation[0]), math.sqrt(float(line.variance[0]))
    noise: Floats = rng.normal(0, spread * math.sqrt(1 - r**2), shape)
    noise[:, seen - 1] = last
    for i in range(seen, shape[1]):
        noise[:, i] += r * noise[:, i - 1]
    return noise


def _stops(futures: Floats, criterion: Criterion) -> np.ndarray:
    """(DRAWS,) usable steps at which the rule certifies each curve, or all of them."""
    stops = np.full(len(futures), futures.shape[1])
    every = Series(rewards_RT=futures, steps_T=np.arange(futures.shape[1], dtype=np.float64))
    certified = np.zeros(len(futures), dtype=np.bool_)
    for look in looks(every, criterion):
        stops = np.where(look.flat & ~certified, look.seen, stops)
        certified |= look.flat
    return stops


def _akaike(found: "_Found") -> float:
    """Akaike's criterion: a parameter more must pay for itself."""
    _, parameters, _, residuals = found
    squares = max(float(residuals @ residuals), 1e-12)
    return len(residuals) * math.log(squares) + 2 * len(parameters)


_Found = tuple[Callable[..., Floats], Floats, Floats, Floats]


def _exponential(t: Floats, rewards: Floats) -> _Found | None:
    span = float(np.ptp(rewards)) or 1.0
    start = (float(rewards[-5:].mean()), span, max(5.0, t[-1] / 3))
    bounds = ([-np.inf, 0, 1], [np.inf, 10 * span, 10 * t[-1] + 10])
    return _fitted(exponential, t, rewards, start, bounds)


def _sigmoid(t: Floats, rewards: Floats) -> _Found | None:
    span = float(np.ptp(rewards)) or 1.0
    start = (float(rewards[:5].mean()), span, t[-1] / 2, max(1.0, t[-1] / 8))
    bounds = ([-np.inf, 0, -t[-1] - 10, 0.5], [np.inf, 10 * span, 3 * t[-1] + 10, t[-1] + 10])
    return _fitted(sigmoid, t, rewards, start, bounds)


def _fitted(
    shape: Callable[..., Floats],
    t: Floats,
    rewards: Floats,
    start: tuple[float, ...],
    bounds: tuple[list[float], list[float]],
) -> _Found | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OptimizeWarning)  # no covariance, no interval
        try:
            parameters, covariance = curve_fit(shape, t, rewards, p0=start, bounds=bounds, max_nfev=2000)
        except (RuntimeError, ValueError, OptimizeWarning):
            return None
    return shape, parameters, covariance, rewards - shape(t, *parameters)
