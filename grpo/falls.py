"""How far a curve has certainly fallen below its best level. Pure; no torch. Shapes as in linefit.py."""

import numpy as np

from grpo.linefit import Floats, limit_spikes, typical_noise

ALARM_CAUTION = 1.0
ERRORS, ERRORS_UNRISEN = 4.0, 6.0
"""Standard errors that a fall must exceed. Where a curve never rose, its best level is the luckiest of many equal ones,
and more is asked."""


def certain_fall(rewards_RT: Floats, steps_T: Floats, horizon: int, risen_R: np.ndarray) -> Floats:
    """(R,) lower bound of the way down from the best level, by the better of a quick and a keen comparison.

    Means of one horizon tell a quick fall soon, means of two a slow one. The noise is that of the curve's whole past:
    while it falls, its latest steps know only the fall. Single odd steps are pulled in first: one can lift a mean.
    """
    calm = limit_spikes(rewards_RT)
    noise = typical_noise(calm, steps_T, ALARM_CAUTION)
    errors = np.where(risen_R, ERRORS, ERRORS_UNRISEN)
    bounds = []
    for length in (horizon, 2 * horizon):
        best, now = best_and_now(calm, length)
        bounds.append(best - now - errors * np.sqrt(2 * noise / length))
    lower: Floats = np.maximum(*bounds)
    return lower


def best_and_now(rewards_RT: Floats, length: int) -> tuple[Floats, Floats]:
    """The best mean of ``length`` steps so far, and the present one; of all steps where there are fewer."""
    length = min(length, rewards_RT.shape[1])
    total = np.cumsum(rewards_RT, 1)
    means = np.concatenate([total[:, length - 1 : length], total[:, length:] - total[:, :-length]], 1) / length
    return means.max(1), means[:, -1]
