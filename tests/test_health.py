"""Every way a run can go wrong is told by its own signal, and names a setting."""

import math
from dataclasses import replace

import pytest

from grpo import health
from grpo.points import Point

HEALTHY = Point(
    step=0,
    reward=0.5,
    signal_share=0.5,
    lowest=0.0,
    highest=1.0,
    error_share=0.0,
    truncated_share=0.1,
    length=100.0,
    entropy=1.0,
    kl=0.01,
    gap=0.01,
    grad_norm=0.3,
)


def run(**late: object) -> list[Point]:
    """15 healthy steps, then 5 with other values."""
    return [replace(HEALTHY, step=i, **(late if i >= 15 else {})) for i in range(20)]


def test_a_healthy_run_has_no_findings() -> None:
    assert health.broken(run()) is None
    assert health.degenerate(run()) is None


@pytest.mark.parametrize("name", ["reward", "entropy", "kl", "gap", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_broken_at_once(name: str, value: float) -> None:
    points = [*run(), replace(HEALTHY, step=20, **{name: value})]
    found = health.broken(points)
    assert found is not None
    assert name.replace("_", " ") in found.cause
    assert "step 21" in found.cause


def test_a_sampler_that_does_not_follow_is_broken() -> None:
    found = health.broken(run(gap=0.5))
    assert found is not None
    assert "rollout.sync" in found.advice
    assert health.broken(run()[:-4] + run(gap=0.5)[-2:]) is None  # two odd steps are no finding


@pytest.mark.parametrize(
    ("late", "cause", "setting"),
    [
        ({"entropy": 0.02}, "entropy fell to 2%", "update.learning_rate"),
        ({"entropy": 4.0}, "entropy is 4.0 times", "update.learning_rate"),
        ({"kl": 2.0}, "2.0 nats a token", "update.kl_coef"),
    ],
)
def test_a_policy_that_broke_before_it_learned(late: dict, cause: str, setting: str) -> None:
    found = health.degenerate(run(**late))
    assert found is not None
    assert cause in found.cause
    assert setting in found.advice


@pytest.mark.parametrize(
    ("late", "cause", "setting"),
    [
        ({"truncated_share": 1.0}, "100% of the completions are cut", "rollout.max_tokens"),
        ({"error_share": 0.8}, "80% of the completions could not be scored", "reward.log"),
        ({"length": 400.0}, "4.0 times as long", "update.kl_coef"),
        ({"length": 20.0}, "0.2 times as long", "update.kl_coef"),
        ({"entropy": 0.02}, "entropy fell", "update.learning_rate"),
        ({"entropy": 4.0}, "4.0 times what it was", "update.learning_rate"),
        ({"kl": 2.0}, "2.0 nats a token", "update.kl_coef"),
        ({}, "no other signal", "update.learning_rate"),
    ],
)
def test_why_a_reward_fell(late: dict, cause: str, setting: str) -> None:
    found = health.why_fallen(run(**late))
    assert cause in found.cause
    assert setting in found.advice


@pytest.mark.parametrize(
    ("late", "cause", "setting"),
    [
        ({"error_share": 0.8}, "could not be scored", "reward.log"),
        ({"truncated_share": 1.0}, "cut at the limit", "rollout.max_tokens"),
        ({"lowest": 0.0, "highest": 0.0}, "every completion gets the reward 0", "reward.file"),
        ({"signal_share": 0.0}, "all completions of a prompt", "rollout.completions_per_prompt"),
        ({}, "does not gain", "update.learning_rate"),
    ],
)
def test_why_there_is_nothing_to_learn(late: dict, cause: str, setting: str) -> None:
    found = health.why_silent(run(**late))
    assert cause in found.cause
    assert setting in found.advice


def test_what_a_stream_does_not_tell_is_no_finding() -> None:
    bare = [Point(step=i, reward=0.5) for i in range(20)]
    assert health.broken(bare) is None
    assert health.degenerate(bare) is None
    assert "learning_rate" in health.why_fallen(bare).advice
    assert "learning_rate" in health.why_silent(bare).advice
