"""Points from metrics, and the removal of prompt difficulty."""

import numpy as np
import pytest

from grpo.points import Point, difficulty, dump, of_record, parse, without_difficulty


def drawn(step: int, prompts: tuple[int, ...], rewards: tuple[float, ...]) -> Point:
    return Point(step=step, reward=float(np.mean(rewards)), prompts=prompts, prompt_rewards=rewards)


def test_difficulty_is_the_deviation_at_the_last_visit() -> None:
    points = [drawn(0, (1, 2), (1.0, 0.0)), drawn(1, (3, 1), (0.5, 0.5)), drawn(2, (1, 2), (0.0, 0.0))]
    # step 0: prompt 1 is 0.5 above its step's mean, prompt 2 is 0.5 below; step 1: prompt 3 is new (0), prompt 1 +0.5,
    # so 0.25 is expected, average prompts would have got 0.25, and prompt 1 is 0.25 above; step 2: +0.25 and -0.5
    assert difficulty(points).tolist() == [0.0, 0.25, -0.125]


def test_unknown_prompts_have_no_difficulty() -> None:
    assert difficulty([Point(step=i, reward=0.1) for i in range(3)]).tolist() == [0, 0, 0]


def test_a_difference_that_persists_in_full_is_removed_in_full() -> None:
    effect = np.array([[0.1, -0.2, 0.3, -0.2, 0.0]])
    np.testing.assert_allclose(without_difficulty(0.5 + effect, effect), np.full((1, 5), 0.5))


def test_a_difference_that_does_not_persist_stays() -> None:
    """Differences 1, -1, 1, -1 of the effect against 1, 1, -1, -1 of the rewards: the sum of products is 0."""
    rewards, effect = np.array([[0.0, 1, 2, 1, 0]]), np.array([[0.0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(without_difficulty(rewards, effect), rewards)


def test_known_difficulty_makes_a_quieter_curve() -> None:
    """60 prompts with fixed effects of spread 0.3, 6 a step, in epochs of 10 steps; 8 rewards a prompt, noise 0.05.

    The step mean scatters by sqrt(0.3^2 / 6) = 0.12 from prompts and 0.05 / sqrt(6) = 0.02 from noise; the second
    remains, and once more from the remembered effects.
    """
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 0.3, 60)
    effects -= effects.mean()
    points = []
    for epoch in range(40):
        order = rng.permutation(60)
        for i in range(10):
            chosen = order[6 * i : 6 * i + 6]
            rewards = 0.5 + effects[chosen] + rng.normal(0, 0.05, 6)
            points.append(drawn(10 * epoch + i, tuple(map(int, chosen)), tuple(map(float, rewards))))
    raw = np.array([[p.reward for p in points]])
    quiet = without_difficulty(raw, difficulty(points)[None])
    assert raw[:, 10:].std() == pytest.approx(0.12, rel=0.15)
    assert quiet[:, 10:].std() < 0.4 * raw[:, 10:].std()


def test_dump_and_parse() -> None:
    point = drawn(3, (4, 5), (0.25, 0.5))
    assert parse(dump(point)) == point


def test_a_record_gives_what_it_has() -> None:
    point = of_record({"step": 3, "critic_rewards_mean": 0.5, "zero_variance_share": 0.25, "kl": 0.1, "prompts": [1]})
    assert point == Point(step=3, reward=0.5, signal_share=0.75, kl=0.1, prompts=(1,))
    with pytest.raises(KeyError):
        of_record({"step": 3})
