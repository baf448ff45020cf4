"""Variants against the first of them, seeds as blocks. Pure.

With V variants and S seeds a value is modelled as variant + seed + noise (two-way layout without interaction; Box,
Hunter and Hunter, Statistics for Experimenters, 2nd ed., chapter 4). All cells estimate one variance, with (V-1)(S-1)
degrees of freedom, so that three seeds suffice for an interval; a variant that is far noisier than the others widens
all of them. Intervals hold together: with 95 % all of them cover (Dunnett, JASA 50, 1955), so that of many variants
without effect none is found by looking often.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a variant's mean to the first one's."""

    mean: float
    low: float
    high: float


def differences(values: Seq[Seq[float]]) -> list[Difference] | None:
    """Of each variant to the first, which has 0. ``values``: [variant][seed]; None with fewer than two of either."""
    table_VS = np.asarray(values, dtype=float)
    if table_VS.ndim != 2 or min(table_VS.shape) < 2:
        return None
    variants, seeds = table_VS.shape
    means_V = table_VS.mean(axis=1)
    residuals = table_VS - means_V[:, None] - table_VS.mean(axis=0)[None, :] + table_VS.mean()
    freedom = (variants - 1) * (seeds - 1)
    error = float(np.sqrt((residuals**2).sum() / freedom * 2 / seeds))
    half = errors_wide(variants - 1, freedom) * error
    return [Difference(0.0, 0.0, 0.0)] + [
        Difference(float(d), float(d - half), float(d + half)) for d in means_V[1:] - means_V[0]
    ]


@cache
def errors_wide(comparisons: int, freedom: int) -> float:
    """Half the width, in standard errors, of intervals to one control that all cover with ``LEVEL`` (Dunnett's d'').

    The control's mean is in every difference: given it and the estimated variance the others are independent, so
    their joint probability is integrated over these two."""
    if comparisons == 1:
        return float(stdtrit(freedom, 0.5 + LEVEL / 2))
    control_N, density_N = hermegauss(64)
    share_M, weight_M = leggauss(256)
    scale_M = np.sqrt(2 * gammaincinv(freedom / 2, (share_M + 1) / 2) / freedom)

    def missing(width: float) -> float:
        reach_MN = width * np.sqrt(2) * scale_M[:, None]
        each_MN = ndtr(control_N + reach_MN) - ndtr(control_N - reach_MN)
        together = weight_M / 2 @ each_MN**comparisons @ density_N / np.sqrt(2 * np.pi)
        return float(together) - LEVEL

    alone, bonferroni = stdtrit(freedom, [0.5 + LEVEL / 2, 1 - (1 - LEVEL) / 2 / comparisons])
    return float(brentq(missing, alone, bonferroni))


def interval(values: Seq[float]) -> tuple[float, float] | None:
    """Of the mean of independent values, Student's; None with fewer than two."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(stdtrit(len(values) - 1, 0.5 + LEVEL / 2)) * error
    return mean - half, mean + half
