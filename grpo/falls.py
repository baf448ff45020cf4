"""How far a curve has certainly fallen below its best level. Pure; no torch. Shapes as in linefit.py."""

import numpy as np

from grpo.linefit import MAD_TO_SD, Bools, Floats, limit_spikes, typical_noise

ALARM_CAUTION = 1.0
ERRORS, ERRORS_UNRISEN = 4.0, 7.0
"""Standard errors that a fall must exceed. Where a curve never rose, its best level is the luckiest of many equal ones,
and more is asked."""
RISE_ERRORS = 5.0
"""Standard errors that a rise must exceed to count here."""
SEEN_ERRORS = 3.0
"""Standard errors above its start at which a curve is not called silent at the end of its budget."""
FIRST_STEPS = 5
"""The level at which the curve began is the mean of this many steps."""


def certain_fall(rewards_RT: Floats, steps_T: Floats, horizon: int) -> Floats:
    """(R,) lower bound of the way down from the best level, by the better of a quick and a keen comparison.

    Means of one horizon tell a quick fall soon, means of two a slow one. The noise is that of the curve's whole past:
    while it falls, its latest steps know only the fall. Single odd steps are pulled in first: one can lift a mean.
    """
    calm = limit_spikes(rewards_RT)
    noise = typical_noise(calm, steps_T, ALARM_CAUTION)
    highest = best_and_now(calm, horizon)[0]
    rise = highest - calm[:, :FIRST_STEPS].mean(1)
    risen = rise > RISE_ERRORS * np.sqrt(noise * (1 / FIRST_STEPS + 1 / horizon))
    errors = np.where(risen, ERRORS, ERRORS_UNRISEN)
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


def stands_above_start(rewards_RT: Floats) -> Bools:
    """(R,) whether the last quarter of the steps lies above the first, by SEEN_ERRORS standard errors.

    The noise is that of differences between neighbours (von Neumann 1941, Ann. Math. Statist. 12, 367), which a short
    and steep rise does not disturb: to a line through 20 steps its bend is all noise. Autocorrelated noise makes it too
    small, so this may excuse a curve from being called silent, and never certifies anything.
    """
    length = max(FIRST_STEPS, rewards_RT.shape[1] // 4)
    spread = MAD_TO_SD / np.sqrt(2) * np.median(np.abs(np.diff(rewards_RT, axis=1)), axis=1)
    gain = rewards_RT[:, -length:].mean(1) - rewards_RT[:, :length].mean(1)
    above: Bools = gain > SEEN_ERRORS * spread * np.sqrt(2 / length)
    return above
