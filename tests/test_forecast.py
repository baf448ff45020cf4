"""The forecast on curves whose future is known: intervals cover it, and shapes are recognised."""

from pathlib import Path

import numpy as np
import pytest

from grpo.config import Config, load
from grpo.flatness import Criterion, Series, looks
from grpo.forecast import exponential, forecast, sigmoid
from grpo.outlook import forecast_of, resolution, smallest_gain
from grpo.points import Point

RULE = Criterion(delta=0.02, alpha=0.05, horizon=20, first=20)
T = np.arange(600.0)
FAST, LATE = exponential(T, 0.9, 0.8, 40.0), sigmoid(T, 0.05, 0.85, 100.0, 20.0)


def demo(*overrides: str) -> Config:
    return load(Path("configs/demo.toml"), list(overrides))


def seen(curve: np.ndarray, steps: int, seed: int) -> Series:
    noise = np.random.default_rng(seed).normal(0, 0.03, 600)
    return Series(rewards_RT=(curve + noise)[None, :steps], steps_T=T[:steps])


@pytest.mark.parametrize(("curve", "shape"), [(FAST, "exponential"), (LATE, "sigmoid")])
def test_the_shape_is_recognised(curve: np.ndarray, shape: str) -> None:
    found = forecast(seen(curve, 150, 0), RULE, 600)
    assert found is not None
    assert found.shape == shape


def test_the_final_reward_is_covered() -> None:
    """A 90 % interval from 100 steps of 40 curves covers the curve's limit, 0.9: fewer than 30 of 40 has p = 0.003."""
    found = [forecast(seen(FAST, 100, seed), RULE, 600) for seed in range(40)]
    assert sum(f.reward[0] <= 0.9 <= f.reward[2] for f in found if f) >= 30
    assert np.mean([f.reward[2] - f.reward[0] for f in found if f]) < 0.1


def test_the_stop_is_where_the_rule_stops() -> None:
    """The median forecast after 100 steps against the median stop of the rule on the same 40 curves."""
    curves = np.concatenate([seen(FAST, 600, seed).rewards_RT for seed in range(40)])
    stop = np.full(40, 600)
    for look in looks(Series(rewards_RT=curves, steps_T=T), RULE):
        stop = np.where((stop == 600) & look.flat, look.seen, stop)
    predicted = [forecast(seen(FAST, 100, seed), RULE, 600).steps[1] for seed in range(40)]
    assert np.median(predicted) == pytest.approx(np.median(stop), rel=0.2)


def test_a_line_may_take_the_whole_budget() -> None:
    found = forecast(seen(0.1 + 0.002 * T, 100, 0), RULE, 200)
    assert found is None or found.steps[2] == 200


def test_a_constant_curve_does_not_fail() -> None:
    found = forecast(Series(rewards_RT=np.full((1, 50), 0.5), steps_T=T[:50]), RULE, 100)
    assert found is None or found.reward[1] == pytest.approx(0.5)


def test_a_run_says_what_it_can_certify() -> None:
    config = demo("run.steps=60", "convergence.delta=0.05", "convergence.horizon=10")
    gain = smallest_gain(config)
    assert f"{gain:.3f}" in resolution(config, 0)
    assert ("may not fire" in resolution(config, 0)) == (gain > 0.05)
    # 1.645 * sqrt(2 * 0.25 / (32 * 4)) = 0.1028
    assert "a change above 0.103" in resolution(config, 32)
    longer = demo("run.steps=600")
    assert smallest_gain(longer) < gain / 4
    assert "no gain" in resolution(demo("run.steps=12"), 0)


def test_a_forecast_counts_warmup_steps() -> None:
    config = demo("run.steps=200", "update.warmup_steps=10", "convergence.delta=0.01")
    rewards = seen(FAST, 100, 0).rewards_RT[0]
    points = [Point(step=i, reward=float(r)) for i, r in enumerate(np.r_[np.zeros(10), rewards])]
    found = forecast_of(points, config)
    assert found.stop_steps is not None
    assert 110 < found.stop_steps[1] <= 200
    assert forecast_of([Point(step=0, reward=float("nan"))] * 20, config).stop_steps is None
