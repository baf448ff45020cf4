"""The stop rule: hand-checked pieces, and its verdicts on simulated curves."""

import math

import numpy as np
import pytest

from grpo.convergence import Verdict, judge
from grpo.points import Point
from grpo.sections import Convergence

RULE = Convergence(delta=0.05, alpha=0.05, horizon=10, min_steps=15)


def points(rewards: list[float] | np.ndarray, signal: float = 0.5) -> list[Point]:
    return [Point(step=i, reward=float(r), signal_share=signal) for i, r in enumerate(rewards)]


def follow(rewards: list[float] | np.ndarray, rule: Convergence = RULE, **options: int) -> Verdict:
    """The verdict at the step where the run would have ended."""
    every = points(rewards)
    for n in range(1, len(every) + 1):
        verdict = judge(every[:n], [], rule, warmup=options.get("warmup", 0), budget=options.get("budget", len(every)))
        if verdict.stop:
            return verdict
    raise AssertionError("a run always ends at its budget")


def saturating(steps: int, tau: float, noise: float, seed: int) -> np.ndarray:
    t = np.arange(steps)
    return 0.1 + 0.8 * (1 - np.exp(-t / tau)) + np.random.default_rng(seed).normal(0, noise, steps)


def test_stops_after_the_plateau_began() -> None:
    verdict = follow(saturating(200, tau=5, noise=0.03, seed=0))
    assert verdict.status == "plateau"
    assert verdict.look is not None
    assert 25 <= verdict.look.step <= 80
    assert verdict.look.bound < RULE.delta


def test_a_curve_that_never_rose_is_not_converged() -> None:
    flat = 0.1 + np.random.default_rng(0).normal(0, 0.02, 120)
    assert follow(flat).status == "no_signal"


def test_still_rising_ends_at_the_budget() -> None:
    line = np.arange(60) * 0.01 + np.random.default_rng(0).normal(0, 0.03, 60)
    verdict = follow(line)
    assert (verdict.status, verdict.look is not None) == ("budget_exhausted", True)


def test_no_groups_with_signal_ends_the_run_with_the_reason() -> None:
    verdict = judge(points([0.0] * 20, signal=0.0), [], RULE, warmup=0, budget=100)
    assert (verdict.status, verdict.stop) == ("no_signal", True)
    assert "equal rewards" in verdict.reason


def test_a_solved_task_is_a_plateau_not_a_lack_of_signal() -> None:
    rising = [Point(step=i, reward=0.1 + 0.06 * i, signal_share=0.5) for i in range(15)]
    solved = [Point(step=15 + i, reward=1.0, signal_share=0.0) for i in range(20)]
    verdict = judge(rising + solved, [], RULE, warmup=0, budget=100)
    assert (verdict.status, verdict.stop) == ("plateau", True)
    patient = RULE.model_copy(update={"min_steps": 60})
    assert judge(rising + solved, [], patient, warmup=0, budget=100).stop is False


def test_nan_is_a_collapse() -> None:
    assert judge(points([0.1, math.nan]), [], RULE, warmup=0, budget=100).status == "collapsed"


def test_empty_history_goes_on() -> None:
    assert judge([], [], RULE, warmup=3, budget=10).stop is False


def test_stop_can_be_switched_off() -> None:
    rule = RULE.model_copy(update={"stop": False})
    curve = saturating(100, tau=5, noise=0.02, seed=0)
    verdict = judge(points(curve[:80]), [], rule, warmup=0, budget=100)
    assert (verdict.status, verdict.stop) == ("plateau", False)
    assert follow(curve, rule).stop


def test_shift_and_scale() -> None:
    curve = saturating(60, tau=5, noise=0.03, seed=3)
    a = judge(points(curve), [], RULE, warmup=0, budget=100).look
    b = judge(points(7 + 10 * curve), [], RULE.model_copy(update={"delta": 0.5}), warmup=0, budget=100).look
    assert a is not None
    assert b is not None
    assert b.bound == pytest.approx(10 * a.bound, rel=1e-9)
