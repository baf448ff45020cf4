"""Variants against the first of them, seeds as blocks. Pure.

With V variants and S seeds a value is modelled as variant + seed + noise (two-way layout without interaction; Box,
Hunter and Hunter, Statistics for Experimenters, 2nd ed., chapter 4). All cells estimate one variance, with (V-1)(S-1)
degrees of freedom, so that three seeds suffice for an interval; a variant that is far noisier than the others widens
all of them. Intervals are for one comparison at a time.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

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
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    return [Difference(0.0, 0.0, 0.0)] + [
        Difference(float(d), float(d - half), float(d + half)) for d in means_V[1:] - means_V[0]
    ]


def interval(values: Seq[float]) -> tuple[float, float] | None:
    """Of the mean of independent values, Student's; None with fewer than two."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(stdtrit(len(values) - 1, 0.5 + LEVEL / 2)) * error
    return mean - half, mean + half
