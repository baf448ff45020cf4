"""Filling up a step: other prompts in place of groups without signal, and nothing of it in what is reported."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from grpo.advantages import assign
from grpo.drawing import Candidate
from grpo.metrics import describe
from grpo.prompts import draw
from grpo.sections import Update
from grpo.types import Completion, Group, Prompt, Reward
from grpo.update import UpdateStats

import runs

HALF_SILENT = '''
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": score(s["messages"])} for s in event]

def score(messages):
    """Prompts with an even number get 1 whatever the answer."""
    if int(messages[0]["content"].split()[-1]) % 2 == 0:
        return 1.0
    text = messages[-1]["content"]
    return round(sum(c.isalpha() for c in text) / (len(text) or 1), 3)
'''


def numbered(i: int) -> Prompt:
    return Prompt(index=i, messages=(), token_ids=(1,))


def test_draws_are_fresh_and_repeatable() -> None:
    prompts = [numbered(i) for i in range(10)]
    first = draw(prompts, 3, {0, 1, 2, 3}, (7, 4, 0, 0))
    assert len(first) == 3
    assert not {p.index for p in first} & {0, 1, 2, 3}
    assert first == draw(prompts, 3, {0, 1, 2, 3}, (7, 4, 0, 0))
    assert len(draw(prompts, 9, {0, 1, 2, 3}, (7, 4, 0, 1))) == 6, "no more than there are"
    assert draw(prompts, 0, set(), (0,)) == draw(prompts, -1, set(), (0,)) == []


def group(*rewards: float, extra: bool = False) -> Group:
    completion = Completion(token_ids=(5, 6), logprobs=(-0.1, -0.2), text="x", finish_reason="stop")
    return Group(
        prompt=numbered(int(10 * sum(rewards))),
        completions=(completion,) * len(rewards),
        rewards=tuple(Reward(value=r) for r in rewards),
        extra=extra,
    )


def test_what_is_reported_knows_no_extra_group() -> None:
    drawn = [group(1.0, 1.0), group(0.0, 0.5)]
    extra = [group(0.0, 1.0, extra=True), group(0.9, 0.9, extra=True)]
    numbers = dict.fromkeys(("pg_loss", "grad_norm", "clip_share", "kl", "gap_mean", "gap_max", "learning_rate"), 0.0)
    whole, half = extra[0].completions
    cut = replace(group(0.0, 1.0, extra=True), completions=(whole, replace(half, finish_reason="length")))
    extra.append(cut)
    stats = UpdateStats(**numbers, entropy=None, tokens_per_microbatch=64, trained_tokens=0)
    settings = Update(advantages="none", mask_truncated=True)
    picked = [Candidate(index=group.prompt.index) for group in drawn]
    plain = describe(0, picked, drawn, assign(drawn, settings, 8), stats)
    filled = describe(0, picked, [*drawn, *extra], assign([*drawn, *extra], settings, 8), stats)
    differs = {name for name in plain if plain[name] != filled[name]}
    assert differs == {"sampled_tokens", "extra_groups"}
    assert (filled["sampled_tokens"], filled["extra_groups"]) == (20, 3)
    assert (filled["critic_rewards_mean"], filled["zero_variance_share"]) == (0.625, 0.5)


def test_what_was_sampled_by_a_chance_weighs_its_inverse() -> None:
    """Prompts 1 and 3 were sampled, with chances 1 and 1/4, so weights 1 and 4; prompt 2, expected at 0.9, was not.

    Mean: (0.5 + 0.9 + (0.8 + (0 - 0.8) * 4)) / 3 = -1 / 3, a draw that other draws make up for.
    Length, share cut, without signal, turns and part of a: (2 * 2 + 2 * 3 * 4) / 10 = 2.8, 8 / 10, 4 / 5, 1, 0.9.
    """
    first, second = group(0.0, 1.0), group(0.0, 0.0)
    longer = replace(second.completions[0], token_ids=(5, 6, 7), logprobs=(-0.1,) * 3, finish_reason="length")
    rewards = [tuple(replace(r, parts={"a": part}) for r in g.rewards) for g, part in ((first, 0.5), (second, 1.0))]
    first = replace(first, rewards=rewards[0])
    second = replace(second, completions=(longer, longer), rewards=rewards[1])
    candidates = [
        Candidate(index=1),
        Candidate(index=2, chance=0.5, expected=0.9, picked=False),
        Candidate(index=3, chance=0.25, expected=0.8),
    ]
    numbers = dict.fromkeys(("pg_loss", "grad_norm", "clip_share", "kl", "gap_mean", "gap_max", "learning_rate"), 0.0)
    stats = UpdateStats(**numbers, entropy=None, tokens_per_microbatch=64, trained_tokens=0)
    told = describe(0, candidates, [first, second], [], stats)
    assert told["critic_rewards_mean"] == pytest.approx(-1 / 3)
    assert told["response_length_mean"] == pytest.approx(2.8)
    assert told["truncated_share"] == pytest.approx(0.8)
    assert told["zero_variance_share"] == pytest.approx(0.8)
    assert told["reward_parts"] == {"a": pytest.approx(0.9)}
    assert (told["turns_mean"], told["visited_prompts"], told["considered"]) == (1.0, 3, [1, 2, 3])


def test_extra_groups_are_trained_on_and_count_if_they_have_a_signal() -> None:
    """Four completions drawn and two extra ones with a signal take part, two tokens each."""
    groups = [group(1.0, 1.0), group(0.0, 0.5), group(0.9, 0.9, extra=True), group(0.0, 1.0, extra=True)]
    sequences = assign(groups, Update(advantages="none"), 8)
    assert [s.advantage for s in sequences] == [-0.25, 0.25, -0.5, 0.5]
    assert {s.weight for s in sequences} == {1 / 12}
    assert len({s.group for s in sequences}) == 2


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_step_is_filled_up(tiny_run, tmp_path: Path, rounds: int) -> None:
    """Half of the prompts always get 1; with three rounds a step has four groups with a signal, as far as there are."""
    config = tiny_run("run", steps=2)
    (tmp_path / "reward.py").write_text(HALF_SILENT)
    runs.train(config, f"rollout.refill_rounds={rounds}")
    for line in runs.metrics(tmp_path / "run"):
        path = tmp_path / "run" / "rollouts" / f"step_{line['step']:06d}.jsonl"
        groups = [json.loads(row) for row in path.read_text().splitlines()]
        useful = [g for g in groups if len({r["value"] for r in g["rewards"]}) > 1]
        assert len([g for g in groups if not g["extra"]]) == 4
        assert len({g["prompt"]["index"] for g in groups}) == len(groups), "a prompt is asked once a step"
        assert line["extra_groups"] == len(groups) - 4
        if rounds:
            assert len(useful) == 4, "all four odd prompts of eight"
        else:
            assert len(groups) == 4
