"""Evaluation: the mean and its interval by hand, and the choice of the best."""

import math

import pytest

from grpo.evaluate import best, summarise
from grpo.types import Completion, Evaluation, Group, Prompt, Reward


def group(*rewards: float | None) -> Group:
    completion = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop")
    return Group(
        prompt=Prompt(index=0, messages=(), token_ids=(1,)),
        completions=(completion,) * len(rewards),
        rewards=tuple(Reward(value=r) for r in rewards),
    )


def test_interval_by_hand() -> None:
    # prompt means 0.5, 1.0, 0.0: mean 0.5, sample std 0.5, / sqrt(3) = 0.288675135;
    # * 1.959963985 (tables) = 0.565792867
    e = summarise([group(0, 1), group(1, 1), group(0, None)], step=3)
    assert (e.mean, e.n, e.errors, e.step) == (0.5, 5, 1, 3)
    assert e.high - e.mean == pytest.approx(0.565792867, abs=1e-8)


def test_unscored_prompts_are_left_out_and_one_prompt_has_no_interval() -> None:
    e = summarise([group(1, 0), group(None, None)], step=0)
    assert (e.mean, e.errors) == (0.5, 2)
    assert (e.low, e.high) == (-math.inf, math.inf)


def test_best_is_by_lower_bound_not_by_peak() -> None:
    def evaluation(step: int, mean: float, half: float) -> Evaluation:
        return Evaluation(step=step, mean=mean, low=mean - half, high=mean + half, n=8, prompt_means=())

    lucky, solid, later = evaluation(1, 0.9, 0.3), evaluation(2, 0.8, 0.1), evaluation(3, 0.8, 0.1)
    assert best([lucky, solid, later]) is later
    assert best([evaluation(1, math.nan, 0.1), solid]) is solid
    assert best([]) is None
