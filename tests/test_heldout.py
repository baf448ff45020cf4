"""Paired comparisons of held-out evaluations, by hand."""

import math

import pytest

from grpo.heldout import change, fall, veto
from grpo.types import Evaluation


def evaluation(step: int, *means: float, errors: int = 0) -> Evaluation:
    mean = sum(means) / len(means)
    return Evaluation(step=step, mean=mean, low=mean, high=mean, n=len(means), prompt_means=means, errors=errors)


def test_a_change_is_paired_by_prompt() -> None:
    found = change(evaluation(10, 0.0, 0.5, 1.0), evaluation(30, 0.3, 0.7, 1.1))
    # differences 0.3, 0.2, 0.1: mean 0.2, standard deviation 0.1, error 0.1 / sqrt(3)
    assert found is not None
    assert (found.mean, found.error) == pytest.approx((0.2, 0.1 / math.sqrt(3)))
    assert (found.first, found.second) == (10, 30)


def test_prompts_that_cannot_be_paired_say_nothing() -> None:
    assert change(evaluation(1, 0.1, 0.2), evaluation(2, 0.1, 0.2, 0.3)) is None
    assert change(evaluation(1, 0.1, 0.2, errors=1), evaluation(2, 0.1, 0.2)) is None
    assert change(evaluation(1, 0.1), evaluation(2, 0.2)) is None


def test_a_certain_held_out_gain_is_a_veto() -> None:
    before, after = evaluation(10, 0.0, 0.5, 1.0), evaluation(30, 0.3, 0.7, 1.1)
    # 0.2 - 1.645 * 0.0577 = 0.105 over 20 steps
    assert veto([before, after], delta=0.1, horizon=20) is not None
    assert veto([before, after], delta=0.11, horizon=20) is None
    assert veto([before, after], delta=0.06, horizon=10) is None  # 0.105 over two horizons is 0.0525 over one
    assert veto([before, after], delta=0.05, horizon=10) is not None
    assert veto([before, after], delta=0.01, horizon=30) is None  # less than a horizon apart
    assert veto([after], delta=0.01, horizon=1) is None


def test_a_certain_held_out_fall() -> None:
    top, down = evaluation(10, 0.8, 0.9, 1.0, 0.9), evaluation(20, 0.41, 0.5, 0.59, 0.5)
    # differences -0.39, -0.4, -0.41, -0.4: mean -0.4, standard deviation 0.00816, error 0.00408
    found = fall([evaluation(5, 0.1, 0.1, 0.1, 0.1), top, down], delta=0.38)
    assert found is not None
    assert (found.first, found.second) == (10, 20)
    assert fall([top, down], delta=0.39) is None
    assert fall([top], delta=0.1) is None
