"""The rules people use, and the best fixed-window test there can be. All return the stopping step per curve, or NEVER.

Arrays have shape (runs, steps). Parameters are the defaults of the tools named, in units of a reward in [0, 1].
"""

import bank
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Stops = NDArray[np.int64]
NEVER = 10**6
CALIBRATION_RUNS = 1000
ORACLE_WINDOWS = (16, 20, 25, 32, 40, 50, 63, 80, 100, 125, 160, 200, 250, 320, 400)


def ema_patience(rewards: Floats, weight: float = 0.1, patience: int = 20) -> Stops:
    """Stop when the exponential moving average has had no new maximum for ``patience`` steps."""
    level, smooth = rewards[:, 0], np.empty_like(rewards)
    for t in range(rewards.shape[1]):
        level = (1 - weight) * level + weight * rewards[:, t]
        smooth[:, t] = level
    return first(_since_record(smooth, 0.0) >= patience)


def early_stopping(rewards: Floats, every: int = 10, patience: int = 3, threshold: float = 0.0) -> Stops:
    """Hugging Face's EarlyStoppingCallback on a mean of ``every`` steps, evaluated as often, with patience 3."""
    means = rewards[:, : rewards.shape[1] // every * every].reshape(len(rewards), -1, every).mean(2)
    stop = first(_since_record(means, threshold) >= patience)
    return np.where(stop < NEVER, stop * every, NEVER)


def std_plateau(rewards: Floats, results: int = 4, std: float = 0.01) -> Stops:
    """Ray Tune's TrialPlateauStopper: the last 4 results have a standard deviation below 0.01."""
    spread = sliding_window_view(rewards, results, axis=1).std(-1)
    return first(spread < std, results)


def mann_kendall(rewards: Floats, window: int = 40, every: int = 5) -> Stops:
    """Stop when the trend test (no ties corrected) finds no rise at 5 % in the last 40 steps, every 5 steps."""
    variance = window * (window - 1) * (2 * window + 5) / 18
    stop = np.full(len(rewards), NEVER)
    later, earlier = np.tril_indices(window, -1)
    for end in range(window, rewards.shape[1] + 1, every):
        part = rewards[:, end - window : end]
        score = np.sign(part[:, later] - part[:, earlier]).sum(1)
        stop = np.where((stop == NEVER) & (score / np.sqrt(variance) < 1.645), end, stop)
    return stop


def slope_bound(rewards: Floats, delta: float, horizon: int, window: int = 40) -> Stops:
    """Stop when the slope's upper 95 % bound times the horizon is below delta: one window, nothing spent over looks."""
    slope, error = _rolling_slopes(rewards, np.arange(rewards.shape[1], dtype=float), window)
    return first(horizon * (slope + 1.685 * error) < delta, window)


def thresholds(law: str) -> dict[int, float]:
    """For every window the slope below which 5 % of lines that gain exactly delta ever fall, under the noise law."""
    null, steps = bank.observe("line at delta", law, CALIBRATION_RUNS, np.random.default_rng(1))
    return {n: float(np.quantile(_rolling_slopes(null, steps, n)[0].min(1), 0.05)) for n in ORACLE_WINDOWS}


def oracle(family: str, rewards: Floats, steps: Floats, limits: dict[int, float], delta: float, horizon: int) -> Stops:
    """The best fixed-window test that knows the noise law, for this very family.

    It takes the window with the smallest median among those that stop falsely on at most 5 % of the curves, and it is
    told when the curve has risen by delta.
    """
    mean, gain = bank.curves()[family], bank.gain(family, horizon)
    risen = (mean - mean[0] > delta)[steps.astype(int)]
    best = np.full(len(rewards), NEVER)
    for window, limit in limits.items():
        slope = _rolling_slopes(rewards, steps, window)[0]
        stop = first((slope < limit) & risen[window - 1 :], window)
        at = steps[np.minimum(stop, len(steps)) - 1].astype(int)
        false = ((stop < NEVER) & (gain[at] >= delta - 1e-9)).mean()
        if false <= 0.05 and np.median(stop) < np.median(best):
            best = stop
    return best


def first(condition: NDArray[np.bool_], offset: int = 1) -> Stops:
    """Steps seen at the first True of every row; column 0 is after ``offset`` steps."""
    return np.where(condition.any(1), condition.argmax(1) + offset, NEVER)


def _since_record(values: Floats, threshold: float) -> Floats:
    record, since = np.full(len(values), -np.inf), np.zeros(len(values))
    out = np.empty_like(values)
    for t in range(values.shape[1]):
        better = values[:, t] > record + threshold
        record, since = np.where(better, values[:, t], record), np.where(better, 0, since + 1)
        out[:, t] = since
    return out


def _rolling_slopes(rewards: Floats, steps: Floats, window: int) -> tuple[Floats, Floats]:
    """Slopes of all windows and their standard errors for independent noise."""
    time = sliding_window_view(steps, window)
    time = time - time.mean(1, keepdims=True)
    squared = (time**2).sum(1)
    view = sliding_window_view(rewards, window, axis=1)
    slope = np.einsum("rwn,wn->rw", view, time) / squared
    total = view.var(-1) * window - slope**2 * squared
    return slope, np.sqrt(np.maximum(total, 0) / (window - 2) / squared)
