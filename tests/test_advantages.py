"""Group-relative advantages against numbers computed by hand."""

import math

import pytest

from grpo.advantages import EPSILON, assign, has_no_signal, normalise
from grpo.types import Completion, Group, Prompt, Reward


def group(*rewards: float | None) -> Group:
    completion = Completion(token_ids=(5, 6), logprobs=(-0.1, -0.2), text="x", finish_reason="stop")
    return Group(
        prompt=Prompt(index=0, messages=(), token_ids=(1, 2, 3)),
        completions=(completion,) * len(rewards),
        rewards=tuple(Reward(value=r, error=None if r is not None else "failed") for r in rewards),
    )


def test_std_by_hand() -> None:
    # mean 0.25; squared deviations 3 * 0.0625 + 0.5625 = 0.75; / 3 = 0.25; std 0.5
    std = 0.5 + EPSILON
    assert normalise([0, 0, 0, 1], "std") == pytest.approx(
        [-0.25 / std, -0.25 / std, -0.25 / std, 0.75 / std], rel=1e-12
    )


def test_none_only_centres() -> None:
    assert normalise([1.0, 2.0, 6.0], "none") == [-2.0, -1.0, 3.0]


@pytest.mark.parametrize("rewards", [[], [1.0], [0.3] * 8, [1e6] * 3])
def test_nothing_to_compare_gives_zero(rewards: list[float]) -> None:
    assert normalise(rewards, "std") == [0.0] * len(rewards)


def test_equal_rewards_whose_float_std_is_not_zero_are_still_no_signal() -> None:
    # numpy's mean of three times 0.1 is 0.10000000000000002: an "std < eps" test would divide noise by noise
    assert normalise([0.1] * 3, "std") == [0.0, 0.0, 0.0]
    assert has_no_signal(group(0.1, 0.1, 0.1))


def test_large_offset_keeps_precision() -> None:
    # deviations -0.5 and 0.5 exactly; std sqrt(0.5)
    half = 0.5 / (math.sqrt(0.5) + EPSILON)
    assert normalise([1e6, 1e6 + 1], "std") == pytest.approx([-half, half], rel=1e-12)


def test_failed_reward_is_excluded_not_zero() -> None:
    # with the failure counted as 0 the mean would be 2/3, not 1
    sequences = assign([group(0.0, None, 2.0)], "none")
    assert [s.advantage for s in sequences] == [-1.0, 1.0]


def test_group_with_one_score_left_is_dropped() -> None:
    assert assign([group(None, 1.0, None)], "std") == []
    assert has_no_signal(group(None, 1.0, None))


def test_groups_keep_their_number_when_others_are_dropped() -> None:
    assert {s.group for s in assign([group(1, 1), group(0, 1), group(0, 0), group(1, 0)], "std")} == {1, 3}


def test_a_kl_term_acts_on_completions_without_advantage_too() -> None:
    sequences = assign([group(1, 1, None), group(0, 1)], "none", keep_all=True)
    assert [s.advantage for s in sequences] == [0.0, 0.0, -0.5, 0.5]
