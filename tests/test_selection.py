"""The checkpoint that is returned, on curves whose best step is known."""

import numpy as np
import pytest

from grpo.points import Point
from grpo.selection import best_steps, choose, keep, lower_bounds
from grpo.types import Evaluation


def points(rewards: np.ndarray) -> list[Point]:
    return [Point(step=i, reward=float(r)) for i, r in enumerate(rewards)]


def evaluation(step: int, mean: float, low: float) -> Evaluation:
    return Evaluation(step=step, mean=mean, low=low, high=1.0, n=4, prompt_means=())


def test_held_out_evaluations_decide_by_their_lower_bound() -> None:
    lucky, sure = evaluation(10, 0.9, 0.5), evaluation(20, 0.8, 0.7)
    assert choose([10, 20, 30], points(np.linspace(0, 1, 30)), [lucky, sure]) == 20


def test_a_spike_is_not_the_best_step() -> None:
    rewards = 0.5 + np.random.default_rng(0).normal(0, 0.01, 60)
    rewards[30:] += 0.1
    rewards[10] = 1.0
    assert choose(range(0, 61, 5), points(rewards), []) >= 30


def test_before_a_collapse() -> None:
    rewards = np.r_[np.linspace(0.1, 0.9, 40), np.full(60, 0.9), np.linspace(0.9, 0.1, 20)]
    chosen = choose(range(0, 121, 5), points(rewards + np.random.default_rng(0).normal(0, 0.02, 120)), [])
    assert 40 <= chosen <= 95


def test_lower_bounds_by_hand() -> None:
    # one step up and down around a flat line: in the middle of 41 steps the fitted line is their mean
    rewards = np.tile([0.4, 0.6], 50)[None] - 0.0
    bounds = lower_bounds(rewards, np.arange(100.0))
    middle = rewards[0, 30:71].mean()
    # residuals +-0.1 alternate, autocorrelation 0, long-run variance 0.01 * 48 / 46 up to the fitted slope
    assert middle - bounds[0, 50] == pytest.approx(0.674 * np.sqrt(0.01 * 48 / 46 / 41), rel=0.01)


def test_a_line_is_followed_to_its_end() -> None:
    """Without noise the bound is the line itself, at the edges too: a plain mean would lag by 10 steps."""
    line = np.linspace(0, 1, 101)[None]
    np.testing.assert_allclose(lower_bounds(line, np.arange(101.0)), line, atol=1e-9)


def test_rows_are_chosen_independently() -> None:
    rng = np.random.default_rng(1)
    curves = np.stack([np.linspace(0, 1, 80), np.linspace(1, 0, 80)]) + rng.normal(0, 0.01, (2, 80))
    up, down = best_steps(curves, np.arange(80.0))
    assert up >= 70
    assert down <= 10


def test_what_may_still_be_chosen_is_kept() -> None:
    rising = points(np.linspace(0, 1, 41))  # candidates of the last 15 steps, the best among them
    assert keep(rising, range(42)) == {30, 35, 40}
    falling = points(np.r_[np.linspace(0, 1, 20), np.linspace(1, 0, 40)])
    assert {20, 25} & keep(falling, range(61))


def test_few_or_no_checkpoints() -> None:
    assert choose([], points(np.zeros(20)), []) is None
    assert choose([1, 2], points(np.zeros(2)), []) == 2
    assert choose([3], [Point(step=i, reward=float("nan")) for i in range(9)], []) == 3
