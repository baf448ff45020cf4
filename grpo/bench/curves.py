"""Curves of one or several runs, smoothed, with their bands. Pure."""

from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from grpo.bench.measured import Measured

SMOOTH = 5
"""Steps of the running mean."""
Curve = NDArray[np.float64]


def smooth(values: Seq[float | None]) -> Curve:
    """Mean of up to five steps that end there; gaps, where nothing was trained, count for nothing."""
    known = [[v for v in values[max(0, i - SMOOTH + 1) : i + 1] if v is not None] for i in range(len(values))]
    return np.array([np.mean(part) if part else np.nan for part in known])


def band(runs: Seq[Measured], metric: str) -> tuple[Curve, Curve, Curve]:
    """Middle, lower and upper edge by step, each of the runs that got there.

    Of several runs the mean and what they span; of a single one the 95 % interval of its reward, and for other metrics
    nothing but the curve.
    """
    rows_RT = np.full((len(runs), max(run.steps for run in runs)), np.nan)
    for row, run in zip(rows_RT, runs, strict=True):
        row[: run.steps] = smooth(run.curves[metric])
    if len(runs) == 1:
        half_T = _running_half(runs[0].half_widths) if metric == "train_reward" else np.zeros(rows_RT.shape[1])
        return rows_RT[0], rows_RT[0] - half_T, rows_RT[0] + half_T
    there_RT = ~np.isnan(rows_RT)
    sums_T = np.where(there_RT, rows_RT, 0.0).sum(axis=0)
    counts_T = there_RT.sum(axis=0)
    middle_T = np.divide(sums_T, counts_T, out=np.full_like(sums_T, np.nan), where=counts_T > 0)
    low_T, high_T = np.where(there_RT, rows_RT, np.inf).min(axis=0), np.where(there_RT, rows_RT, -np.inf).max(axis=0)
    return middle_T, np.where(counts_T > 0, low_T, np.nan), np.where(counts_T > 0, high_T, np.nan)


def _running_half(halves: Seq[float]) -> Curve:
    """Of a mean of independent steps; 0, which is no interval, where steps of a single prompt have none."""
    parts = [np.asarray(halves[max(0, i - SMOOTH + 1) : i + 1]) for i in range(len(halves))]
    known: Curve = np.nan_to_num(np.array([float(np.sqrt((part**2).sum())) / len(part) for part in parts]))
    return known
