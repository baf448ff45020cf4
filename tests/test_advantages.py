"""Group-relative advantages against numbers computed by hand."""

import math

import pytest
from grpo_kernels.plain_loss import EPSILON

from grpo.advantages import assign, has_no_signal, normalise, overlong_penalty, token_weight
from grpo.sections import Update
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
    sequences = assign([group(0.0, None, 2.0)], Update(advantages="none"), 8)
    assert [s.advantage for s in sequences] == [-1.0, 1.0]


def test_group_with_one_score_left_is_dropped() -> None:
    assert assign([group(None, 1.0, None)], Update(), 8) == []
    assert has_no_signal(group(None, 1.0, None))


def test_groups_keep_their_number_when_others_are_dropped() -> None:
    assert {s.group for s in assign([group(1, 1), group(0, 1), group(0, 0), group(1, 0)], Update(), 8)} == {1, 3}


def test_a_kl_term_acts_on_completions_without_advantage_too() -> None:
    sequences = assign([group(1, 1, None), group(0, 1)], Update(advantages="none", kl_coef=0.1), 8)
    assert [s.advantage for s in sequences] == [0.0, 0.0, -0.5, 0.5]


def test_leave_one_out_by_hand() -> None:
    """Of 1, 2, 6 the others' means are 4, 3.5 and 1.5."""
    assert normalise([1.0, 2.0, 6.0], "leave_one_out") == pytest.approx([-3.0, -1.5, 4.5], abs=1e-12)


def lengthy(*pairs: tuple[float | None, int, str]) -> Group:
    """A group of (reward, tokens, finish reason)."""
    completions = tuple(
        Completion(token_ids=(5,) * n, logprobs=(-0.1,) * n, text="x", finish_reason=reason) for _, n, reason in pairs
    )
    rewards = tuple(Reward(value=r, error=None if r is not None else "failed") for r, _, _ in pairs)
    return Group(prompt=Prompt(index=0, messages=(), token_ids=(1,)), completions=completions, rewards=rewards)


def test_token_weights_by_hand() -> None:
    """Three completions of 1, 2 and 5 tokens, at most 8."""
    lengths = [1, 2, 5]
    weights = {kind: [token_weight(kind, n, lengths, 8) for n in lengths] for kind in ("grpo", "dapo", "dr_grpo")}
    assert weights["grpo"] == pytest.approx([1 / 3, 1 / 6, 1 / 15], rel=1e-12)
    assert weights["dapo"] == pytest.approx([1 / 8, 1 / 8, 1 / 8], rel=1e-12)
    assert weights["dr_grpo"] == pytest.approx([1 / 24, 1 / 24, 1 / 24], rel=1e-12)
    for same, as_kind in (("gspo", "grpo"), ("cispo", "dapo")):
        assert [token_weight(same, n, lengths, 8) for n in lengths] == weights[as_kind]


def test_groups_without_signal_count_in_the_denominators() -> None:
    """Their completions were asked for, too: without them a step with few useful groups would take a larger stride."""
    groups = [lengthy((0.0, 2, "stop"), (1.0, 4, "stop")), lengthy((1.0, 3, "stop"), (1.0, 3, "stop"))]
    assert [s.weight for s in assign(groups, Update(), 8)] == [1 / 12, 1 / 12]
    assert [s.weight for s in assign(groups, Update(loss="grpo"), 8)] == [1 / 8, 1 / 16]


def test_masked_completions_are_in_no_denominator_and_in_the_baseline() -> None:
    group = lengthy((0.0, 2, "stop"), (4.0, 8, "length"), (2.0, 4, "stop"), (None, 3, "stop"))
    sequences = assign([group], Update(advantages="none", mask_truncated=True), 8)
    assert [s.advantage for s in sequences] == [-2.0]  # mean 2: the third has no advantage
    assert [s.weight for s in sequences] == [1 / 6]
    unmasked = assign([group], Update(advantages="none"), 8)
    assert [(s.advantage, s.weight) for s in unmasked] == [(-2.0, 1 / 14), (2.0, 1 / 14)]


def test_soft_overlong_penalty_by_hand() -> None:
    """A buffer of 4 before the limit of 10: nothing up to 6, then a quarter a token, and no more than all of it."""
    settings = Update(overlong_buffer=4, overlong_penalty=2.0)
    found = [overlong_penalty(n, settings, 10) for n in (1, 6, 7, 9, 10)]
    assert found == [0.0, 0.0, -0.5, -1.5, -2.0]
    assert overlong_penalty(10, Update(), 10) == 0.0


def test_shaping_moves_advantages_and_makes_no_signal() -> None:
    settings = Update(advantages="none", overlong_buffer=4, overlong_penalty=1.0)
    equal = lengthy((1.0, 8, "length"), (1.0, 2, "stop"))
    assert assign([equal], settings, 8) == []
    # 1 - 1 and 0 + 0: shaped rewards 0 and 0 although the grader's differ
    assert assign([lengthy((1.0, 8, "length"), (0.0, 2, "stop"))], settings, 8) == []
    (first, second) = assign([lengthy((1.0, 6, "stop"), (0.0, 2, "stop"))], settings, 8)
    assert (first.advantage, second.advantage) == (0.25, -0.25)  # shaped: 0.5 and 0
