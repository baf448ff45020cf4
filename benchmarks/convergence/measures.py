"""The project's rule on simulated curves, by the lines a training run goes through, and what came of it."""

from dataclasses import dataclass

import bank
import numpy as np
from numpy.typing import NDArray
from rivals import NEVER
from scipy.stats import beta

from grpo.convergence import LOST, PATIENCE
from grpo.flatness import Criterion, Series, looks
from grpo.selection import HALF_WINDOW, best_steps

CRITERION = Criterion(delta=0.02, alpha=0.05, horizon=20, first=20)
DROP, WITHIN = 0.1, 30
"""A fall is material once the true mean is this far below its best; the alarm has so many steps from there."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Course:
    """What the rule did on R curves: number of steps seen, or NEVER."""

    flat: Ints
    """First certified look."""
    alarm: Ints
    """First alarm: the reward fell."""
    end: Ints
    """Where the run stopped, for whatever reason."""


def follow(series: Series, criterion: Criterion = CRITERION, tolerance: float | None = None) -> Course:
    """All looks, with the verdicts' own conditions for stopping (convergence.py)."""
    tolerance = criterion.delta if tolerance is None else tolerance
    flat, alarm, end, since = (np.full(len(series.rewards_RT), NEVER) for _ in range(4))
    for look in looks(series, criterion):
        fell = look.fall > tolerance
        since = np.where(fell, np.minimum(since, look.seen), NEVER)
        lasted = fell & (look.seen - since >= PATIENCE * criterion.horizon)
        stops = np.where(fell, (look.fall > LOST * look.rise) | lasted, look.flat)
        flat = np.where((flat == NEVER) & look.flat & ~fell, look.seen, flat)
        alarm = np.where((alarm == NEVER) & fell, look.seen, alarm)
        end = np.where((end == NEVER) & stops, look.seen, end)
    return Course(flat, alarm, end)


def in_steps(seen: Ints, steps: bank.Floats) -> Ints:
    """Steps of training behind a number of steps seen; NEVER stays."""
    return np.where(seen < NEVER, steps[np.minimum(seen, len(steps)) - 1] + 1, NEVER).astype(np.int64)


def stopping(family: str, stop: Ints) -> dict[str, float]:
    """False stops with the exact upper 95 % bound (Clopper and Pearson 1934), median stop, share of steps saved."""
    gain = bank.gain(family, CRITERION.horizon)
    stopped = stop < NEVER
    within = np.minimum(stop, bank.STEPS)
    false = int((stopped & (gain[within - 1] >= CRITERION.delta - 1e-9)).sum())
    return {
        "runs": len(stop),
        "false": false / len(stop),
        "false_upper": upper(false, len(stop)),
        "stopped": float(stopped.mean()),
        "median": float(np.median(within)),
        "saved": float(1 - within.mean() / bank.STEPS),
    }


def upper(events: int, runs: int) -> float:
    """One-sided exact 95 % bound of a probability."""
    return float(beta.ppf(0.95, events + 1, runs - events)) if events < runs else 1.0


def alarms(family: str, alarm: Ints) -> dict[str, float]:
    """Alarms on curves that have not fallen by delta, and how soon a material fall is heard."""
    turn, material = bank.fallen(family, CRITERION.delta), bank.fallen(family, DROP)
    early = (alarm <= (turn if turn is not None else bank.STEPS)).mean()
    result = {"false_alarm": float(early), "false_alarm_upper": upper(round(early * len(alarm)), len(alarm))}
    if material is not None:
        heard = alarm[alarm < NEVER]
        result["heard_in_time"] = float((alarm <= material + WITHIN).mean())
        result["median_delay"] = float(np.median(heard) - material) if len(heard) else float("nan")
    return result


def given_up(
    family: str, rewards: bank.Floats, steps: bank.Floats, end: Ints, half_window: int = HALF_WINDOW
) -> dict[str, float]:
    """True reward of the returned checkpoint against the best earlier one, and what the curve gained later.

    In shares of the rise up to the stop; families that hardly rise have no such share.
    """
    mean = bank.curves()[family][steps.astype(int)]
    seen = np.minimum(end, len(steps))
    lost, later = np.empty(len(rewards)), np.empty(len(rewards))
    for stop in np.unique(seen):
        rows = seen == stop
        chosen = mean[best_steps(rewards[rows, :stop], steps[:stop], half_window)]
        best = mean[:stop].max()
        rise = max(best - mean[0], 1e-9)
        lost[rows] = (best - chosen) / rise
        later[rows] = np.maximum(0, mean.max() - best) / rise
    if np.ptp(mean) < 5 * CRITERION.delta:
        return {}
    return {
        "given_up": float(np.median(lost)),
        "given_up_95": float(np.quantile(lost, 0.95)),
        "still_to_come": float(np.median(later)),
    }
