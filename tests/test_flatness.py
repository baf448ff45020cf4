"""The statistics of the stop rule: hand-computed pieces, and its errors on simulated curves."""

import itertools
import math

import numpy as np
import pytest

from grpo.flatness import Criterion, LookResult, Series, certifiable, has_risen, look_steps, looks, window_lengths
from grpo.linefit import fit, limit_spikes

DEFAULT = Criterion(delta=0.02, alpha=0.05, horizon=20, first=20)
NEVER = 10**6


def stops(rewards_RT: np.ndarray, criterion: Criterion = DEFAULT) -> np.ndarray:
    """Usable steps at which each curve is first certified flat; NEVER where it is not."""
    found = np.full(len(rewards_RT), NEVER)
    for look in looks(series(rewards_RT), criterion):
        found = np.where((found == NEVER) & look.flat, look.seen, found)
    return found


def series(rewards_RT: np.ndarray, **extra: np.ndarray) -> Series:
    return Series(rewards_RT=rewards_RT, steps_T=np.arange(rewards_RT.shape[1], dtype=float), **extra)


def noise(runs: int, steps: int, phi: float = 0.0, spread: float = 0.03) -> np.ndarray:
    """Stationary AR(1), standard deviation ``spread``."""
    e = np.random.default_rng(0).normal(0, spread, (runs, steps))
    for i in range(1, steps):
        e[:, i] = phi * e[:, i - 1] + math.sqrt(1 - phi**2) * e[:, i]
    return e


# A line of slope 0.5 plus residuals +1, -1, +1, -1, -1, +1, -1, +1, which are orthogonal to 1 and to time: their sum of
# squares is 8, / (n - 2) = 4/3; sum of squared times 42; lag-1 products -5 < 0: autocorrelation 0.
ZIGZAG = (0.5 * np.arange(8) + np.array([1, -1, 1, -1, -1, 1, -1, 1]))[None]


def test_gain_bound_by_hand() -> None:
    line = fit(ZIGZAG, np.arange(8.0))
    # t(0.95, 6 degrees) = 1.943180 (printed tables)
    expected = 10 * (0.5 + 1.943180 * math.sqrt(4 / 3 / 42))
    assert line.gain_bound(10, 0.05, caution=0.0) == pytest.approx(expected, rel=1e-6)
    # caution 1: r = 1 / sqrt(8) = 0.353553, w = 1.353553 / 0.646447 = 2.093836, 8 / w - 2 = 1.820737 degrees; the
    # quantile 3.149867 by numerical integration of Student's density and bisection (mpmath, 30 digits)
    assert line.independent_steps(1.0) == pytest.approx(8 / 2.093836, rel=1e-6)


def test_steps_may_be_missing() -> None:
    # the same line seen at steps 0, 2, 3, 7, 8 without noise has slope 0.5 whatever is missing
    steps = np.array([0.0, 2, 3, 7, 8])
    assert fit((0.5 * steps)[None], steps).slope == pytest.approx(0.5)


def test_autocorrelation_is_found_and_widens_the_bound() -> None:
    steps = np.arange(200.0)
    smooth, rough = fit(noise(50, 200, phi=0.8), steps), fit(noise(50, 200), steps)
    # the estimate's own spread is sqrt((1 - 0.64) / 200 / 50) = 0.006
    assert smooth.autocorrelation.mean() == pytest.approx(0.8, abs=0.025)
    assert smooth.gain_bound(20, 0.05, 0.0).mean() > 2 * rough.gain_bound(20, 0.05, 0.0).mean()


def test_schedule() -> None:
    assert window_lengths(15) == []
    assert window_lengths(40) == [16, 24, 36]
    # every 5 steps, from 120 on every 5 % (6 of 120), from 200 on every 10
    assert list(look_steps(105, 140)) == [105, 110, 115, 120, 126, 132, 138]
    assert list(look_steps(400, 430)) == [400, 410, 420, 430]


def test_alpha_is_never_overspent() -> None:
    every = list(looks(series(noise(1, 2000)), DEFAULT))
    assert every[0].spent == pytest.approx(0.05 / 2.612375)  # zeta(1.5), printed tables
    assert all(a.spent < b.spent < 0.05 for a, b in itertools.pairwise(every))


def test_rise() -> None:
    step_up = np.r_[np.full(5, 0.1), np.full(15, 0.5)][None]
    assert has_risen(series(step_up + noise(1, 20)), 10, 0.05)
    assert not has_risen(series(noise(1, 20)), 10, 0.01)


# 200 curves each. H0 is true on all of a line and in the last 20 steps of a tread; a rule that held 5 % exactly would
# exceed 19 of 200 once in 1,000 tries (binomial). The bank with 2,000 runs a cell is in benchmarks/convergence.
@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
def test_false_stops_on_lines_that_gain_exactly_delta(phi: float) -> None:
    line = 0.1 + np.arange(300) * DEFAULT.delta / DEFAULT.horizon
    assert (stops(line + noise(200, 300, phi)) < NEVER).sum() <= 19


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_a_staircase_teaches_patience(phi: float) -> None:
    t = np.arange(400)
    stairs = 0.1 + 0.15 * sum(t >= at for at in (100, 200, 300))
    stopped = stops(stairs + noise(200, 400, phi))
    assert ((stopped % 100 >= 80) & (stopped < NEVER)).sum() <= 19


def test_flat_before_a_late_take_off_is_no_plateau() -> None:
    t = np.arange(200)
    late = 0.05 + 0.85 / (1 + np.exp(-(t - 150) / 20))
    assert (stops(late + noise(200, 200)) < NEVER).sum() <= 19


def test_swinging_is_not_flat() -> None:
    t = np.arange(420)
    swing = 0.1 + 0.5 * (1 - np.exp(-t / 60)) + 0.06 * np.sin(2 * np.pi * t / 80)
    gain = swing[20:] - swing[:-20]
    stopped = stops((swing + noise(200, 420, spread=0.08))[:, :400])
    assert (gain[stopped[stopped < NEVER] - 1] >= DEFAULT.delta).sum() <= 19


def test_a_fallen_curve_is_not_flat() -> None:
    fallen = np.r_[np.linspace(0.1, 0.9, 15), np.full(15, 0.9), np.full(160, 0.5)]
    last = list(looks(series(fallen + noise(1, 190)), DEFAULT))[-1]
    assert (last.bound[0] < DEFAULT.delta, bool(last.rose[0]), bool(last.fallen[0])) == (True, True, True)
    assert not last.flat[0]


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_a_true_plateau_is_found(phi: float) -> None:
    """From step 110 on, fast gains less than delta per horizon; 600 steps are enough for all but a few curves."""
    fast = 0.1 + 0.8 * (1 - np.exp(-np.arange(600) / 40))
    stopped = stops(fast + noise(100, 600, phi))
    assert ((stopped > 110) & (stopped < NEVER)).mean() >= 0.95


def test_curves_are_judged_independently_of_their_neighbours() -> None:
    curves = 0.1 + 0.8 * (1 - np.exp(-np.arange(300) / 40)) + noise(3, 300)

    def numbers(look: LookResult, row: int) -> tuple[float, bool]:
        return float(look.bound[row]), bool(look.flat[row])

    together = [numbers(look, 1) for look in looks(series(curves), DEFAULT)]
    alone = [numbers(look, 0) for look in looks(series(curves[1:2]), DEFAULT)]
    assert [f for _, f in together] == [f for _, f in alone]
    assert [b for b, _ in together] == pytest.approx([b for b, _ in alone], rel=1e-9)


def test_a_look_depends_on_the_past_only() -> None:
    curves = noise(1, 300)
    early = list(looks(series(curves[:, :150]), DEFAULT))
    full = list(looks(series(curves), DEFAULT))
    assert [e.bound[0] for e in early] == [f.bound[0] for f in full[: len(early)]]


def test_weights_by_hand() -> None:
    """Doubling a step's weight is the same as seeing it twice."""
    steps, rewards = np.array([0.0, 1, 2, 3, 5]), np.array([[0.1, 0.5, 0.2, 0.9, 0.4]])
    weighted = fit(rewards, steps, np.array([1.0, 2, 1, 1, 1]))
    twice = fit(np.array([[0.1, 0.5, 0.5, 0.2, 0.9, 0.4]]), np.array([0.0, 1, 1, 2, 3, 5]))
    assert (weighted.slope, weighted.mean) == (pytest.approx(twice.slope), pytest.approx(twice.mean))


def test_few_rollouts_in_half_of_the_steps_cost_little_when_they_are_weighed() -> None:
    """Noise 0.12 in every other step, 0.03 else: weights 1 : 16 leave nearly the precision of the good half."""
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(200) % 2, 0.12, 0.03)
    curves = rng.normal(0, 1, (100, 200)) * spread
    weighed, alike = fit(curves, np.arange(200.0), 1 / spread**2), fit(curves, np.arange(200.0))
    # weighted variance of a slope: 1 / sum(w t^2) against sum(s^2 t^2) / (sum t^2)^2 = a fifth of it, by hand
    ratio = weighed.slope.std() / alike.slope.std()
    assert ratio == pytest.approx(math.sqrt(2 / (1 / 0.03**2 + 1 / 0.12**2) / ((0.03**2 + 0.12**2) / 2)), rel=0.25)


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_missing_steps_and_changing_sizes_keep_the_level(phi: float) -> None:
    """A fifth of the steps is lost, and the batch size changes between 32 and 512 every 25 steps."""
    rng = np.random.default_rng(3)
    sizes = np.where(np.arange(300) // 25 % 2, 32, 512)
    kept = np.sort(rng.choice(300, 240, replace=False))
    line = 0.1 + np.arange(300) * DEFAULT.delta / DEFAULT.horizon
    curves = line + noise(200, 300, phi, spread=1.0) * 0.34 / np.sqrt(sizes)
    partial = Series(rewards_RT=curves[:, kept], steps_T=kept.astype(float), weights_T=sizes[kept].astype(float))
    flat = np.zeros(200, dtype=bool)
    for look in looks(partial, DEFAULT):
        flat |= look.flat
    assert flat.sum() <= 19


def test_a_curve_under_a_known_ceiling_needs_no_slope() -> None:
    """At 0.99 of at most 1 there is less than 0.02 to gain: 0.01 + a t quantile times 0.01 / sqrt(n)."""
    risen = np.r_[np.linspace(0.1, 0.99, 20), np.full(100, 0.99)] + noise(1, 120, spread=0.01)
    capped = Criterion(delta=0.02, alpha=0.05, horizon=20, first=20, ceiling=1.0)
    assert stops(risen, capped)[0] < stops(risen)[0]
    assert stops(risen - 0.05, capped)[0] >= stops(risen - 0.05)[0]


def test_what_can_be_certified() -> None:
    """Twice the steps: the slope's error falls by 2 ** 1.5; four times the variance doubles the gain."""
    near, far = certifiable(0.001, 121, DEFAULT), certifiable(0.001, 273, DEFAULT)
    assert near / far == pytest.approx((273 / 121) ** 1.5, rel=0.1)
    assert certifiable(0.004, 121, DEFAULT) == pytest.approx(2 * near)
    assert certifiable(0.001, 15, DEFAULT) == math.inf


def test_the_alarm_is_quiet_on_plateaus_and_hears_a_fall() -> None:
    """A false alarm on at most 1 % is promised: more than 6 of 200 would have p = 0.004 (binomial)."""
    fast = 0.1 + 0.8 * (1 - np.exp(-np.arange(400) / 40))
    down = fast - np.where(np.arange(400) > 200, (np.arange(400) - 200) * 0.003, 0)
    heard = np.zeros(200, dtype=bool)
    for look in looks(series(fast + noise(200, 400, 0.5)), DEFAULT):
        heard |= look.fall > DEFAULT.delta
    assert heard.sum() <= 6
    at = [look.fall > DEFAULT.delta for look in looks(series((down + noise(200, 400, 0.5))[:, :263]), DEFAULT)]
    # 60 steps after the turn the curve is 0.18 below its best
    assert at[-1].mean() >= 0.95


def test_a_swing_is_no_line() -> None:
    t = np.arange(240)
    swing = 0.06 * np.sin(2 * np.pi * t / 80)
    seen = fit(swing + noise(200, 240, spread=0.05), t.astype(float), None, 20)
    line = fit(noise(200, 240, spread=0.05), t.astype(float), None, 20)
    assert seen.swings(0.2, 0.0).mean() > 0.95
    assert 0.1 < line.swings(0.2, 0.0).mean() < 0.3  # 0.2 by definition of the level


def test_spikes_are_pulled_in_and_noise_is_not() -> None:
    quiet = noise(20, 200)
    assert (limit_spikes(quiet) == quiet).mean() > 0.999
    quiet[0, 50] += 1.0
    calm = limit_spikes(quiet)
    # 6 deviations of 0.03 around a neighbour
    assert calm[0, 50] < 0.35
    assert (calm[0, 51:] == quiet[0, 51:]).mean() > 0.99
