"""What must hold for any curve: invariance, monotony, no crash, no stop before there is enough data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.convergence import Look, all_looks, judge
from grpo.flatness import SMALLEST_WINDOW
from grpo.points import Point, dump, parse
from grpo.sections import Convergence

rewards = st.lists(st.floats(-100, 100, allow_nan=False), min_size=40, max_size=90)
anything = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60)
seeds = st.integers(0, 10_000)


def points(values: list[float] | np.ndarray) -> list[Point]:
    return [Point(step=i, reward=float(v)) for i, v in enumerate(values)]


def curve(seed: int, steps: int = 120) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 0.1 + 0.8 * (1 - np.exp(-np.arange(steps) / rng.uniform(3, 40))) + rng.normal(0, 0.03, steps)


def rule(**settings: float) -> Convergence:
    return Convergence.model_validate({"delta": 0.02, "horizon": 20} | settings)


def stop(values: np.ndarray, **settings: float) -> float:
    """The step of the first certified look."""
    return next((look.step for look in all_looks(points(values), rule(**settings), 0) if look.flat), math.inf)


@settings(deadline=None, max_examples=60)
@given(seeds, st.floats(-1000, 1000), st.floats(0.01, 100))
def test_shift_and_scale_change_nothing(seed: int, shift: float, scale: float) -> None:
    plain = all_looks(points(curve(seed)), rule(), 0)
    moved = all_looks(points(shift + scale * curve(seed)), rule(delta=0.02 * scale), 0)
    for a, b in zip(plain, moved, strict=True):
        assert (a.window, a.rose, a.fallen, a.flat) == (b.window, b.rose, b.fallen, b.flat)
        if a.bound is not None:
            assert b.bound == pytest.approx(scale * a.bound, rel=1e-6, abs=1e-6 * scale)


@settings(deadline=None, max_examples=60)
@given(seeds, st.floats(0.001, 0.2), st.floats(1.0, 4.0))
def test_a_larger_alpha_never_stops_later(seed: int, alpha: float, factor: float) -> None:
    assert stop(curve(seed), alpha=min(0.9, alpha * factor)) <= stop(curve(seed), alpha=alpha)


@settings(deadline=None, max_examples=60)
@given(seeds, st.floats(0.005, 0.1), st.floats(1.0, 4.0))
def test_a_larger_delta_bounds_no_worse(seed: int, delta: float, factor: float) -> None:
    """The bound itself does not depend on delta; of the gates, only the rise asks for more when delta is larger."""

    def certified(look: Look, limit: float) -> bool:
        return look.bound is not None and look.bound < limit

    small, large = (all_looks(points(curve(seed)), rule(delta=d), 0) for d in (delta, delta * factor))
    for a, b in zip(small, large, strict=True):
        if a.rose and b.rose and not a.fallen and a.flat and a.window == b.window:
            assert certified(b, delta * factor)


@settings(deadline=None)
@given(rewards, st.randoms(use_true_random=False))
def test_the_order_in_which_equal_steps_are_read_is_irrelevant(values: list[float], random) -> None:
    """Streams are sorted by step: a shuffled file is the same curve."""
    history = points(values)
    shuffled = list(history)
    random.shuffle(shuffled)
    again = sorted(shuffled, key=lambda p: p.step)
    assert all_looks(history, rule(), 0) == all_looks(again, rule(), 0)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=SMALLEST_WINDOW))
def test_no_plateau_before_there_is_enough_data(values: list[float]) -> None:
    verdict = judge(points(values), [], rule(min_steps=1), warmup=0, budget=1000)
    assert (verdict.status, verdict.stop) == ("improving", False)


@settings(deadline=None, max_examples=200)
@given(anything)
def test_no_curve_makes_it_crash(values: list[float]) -> None:
    verdict = judge(points(values), [], rule(), warmup=3, budget=1000)
    assert verdict.reason
    if values and not math.isfinite(values[-1]):
        assert (verdict.status, verdict.stop) == ("collapsed", True)


@settings(deadline=None)
@given(rewards, st.integers(1, 39))
def test_a_resumed_run_gives_the_same_verdicts(values: list[float], cut: int) -> None:
    """The whole state is the list of points, as the checkpoint stores it."""
    history = points(values)
    stored = [parse(dump(p)) for p in history[:cut]]
    resumed = [*stored, *history[cut:]]
    assert judge(resumed, [], rule(), warmup=2, budget=500) == judge(history, [], rule(), warmup=2, budget=500)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(60, 119))
def test_the_future_does_not_change_past_looks(seed: int, cut: int) -> None:
    early, late = all_looks(points(curve(seed)[:cut]), rule(), 0), all_looks(points(curve(seed)), rule(), 0)
    assert early == late[: len(early)]
