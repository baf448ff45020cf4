"""What the comparison with other trainers makes of its runs, by hand."""

from typing import Any

import pytest

from benchmarks.peers.verdict import reached, summary


def run(
    side: str, seed: int, step_seconds: float, start: float, rewards: list[float], means: list[float]
) -> dict[str, Any]:
    ours = side.startswith("ours")
    return {
        "side": side,
        "seed": seed,
        "machine": "m",
        "rewards": rewards,
        "seconds": [start + step_seconds * (i + 1) for i in range(len(rewards))],
        "trainer_mib": 100 if ours else 400,
        "tree_mib": 200 if ours else 400,
        "test": {"mean": sum(means) / len(means), "prompt_means": means, "errors": 0},
    }


RISING = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
"""Running means of five: 0, 0.25, 0.5, 0.625, 0.7, 0.9, 1.0."""


def test_the_step_at_which_four_fifths_are_reached() -> None:
    assert reached(run("ours", 0, 2.0, 10.0, RISING, [1.0]), 0.8) == {"steps_to_share": 6, "seconds_to_share": 22.0}
    assert reached(run("ours", 0, 2.0, 10.0, [0.0], [1.0]), 0.8) == {"steps_to_share": None, "seconds_to_share": None}


def test_two_sides_by_hand() -> None:
    """Ours: 10 + 6 x 2 = 22 s; theirs: 4 + 6 x 20 = 124. Test means differ by 0.1 and 0 in the first seed, by 0.1 and
    0.2 in the second: 0.1 on average, by prompt 0.1 and 0.1, by seed 0.05 and 0.15, t(1) = 12.7062 x 0.05."""
    runs = [
        run("ours bfloat16", 0, 2.0, 10.0, RISING, [0.9, 0.8]),
        run("ours bfloat16", 1, 2.0, 10.0, RISING, [0.9, 0.8]),
        run("TRL bfloat16", 0, 20.0, 4.0, RISING, [0.8, 0.8]),
        run("TRL bfloat16", 1, 20.0, 4.0, RISING, [0.8, 0.6]),
        run("TRL float32", 0, 30.0, 4.0, RISING, [0.8, 0.8]),
    ]
    found = summary(runs)
    assert found["threshold"] == pytest.approx(0.8)
    race = found["race"]["ours bfloat16 / TRL bfloat16"]
    assert race["wall_clock_ratio"] == pytest.approx([22 / 124, 22 / 124])
    assert race["wall_clock_ratio_after_first_step"] == pytest.approx([0.1, 0.1])
    assert race["memory_ratio"] == [0.25, 0.25]
    assert race["test_difference"] == pytest.approx(0.1)
    assert race["test_difference_95_over_prompts"] == pytest.approx([0.1, 0.1])
    assert race["test_difference_95_over_seeds"] == pytest.approx([0.1 - 0.63531, 0.1 + 0.63531], abs=1e-4)
    assert found["race"]["ours bfloat16 / TRL float32"]["seeds"] == [0]
    assert found["sides"]["TRL bfloat16"]["seconds_to_share"] == [124.0, 124.0, 124.0]
    assert found["sides"]["TRL bfloat16"]["seconds_a_step"] == pytest.approx(20.0)


def test_who_never_gets_there_is_said_to() -> None:
    flat = run("TRL bfloat16", 0, 20.0, 4.0, [0.1] * 7, [0.1, 0.1])
    found = summary([run("ours bfloat16", 0, 2.0, 10.0, RISING, [0.9, 0.8]), flat])
    assert found["sides"]["TRL bfloat16"]["never_there"] == [0]
    assert found["race"]["ours bfloat16 / TRL bfloat16"]["wall_clock_ratio_median"] is None
    assert found["race"]["ours bfloat16 / TRL bfloat16"]["test_difference"] == pytest.approx(0.75)
    alone = summary([flat])
    assert alone["race"] == {}
    other = run("ours bfloat16", 1, 2.0, 10.0, RISING, [0.9, 0.8])
    assert summary([flat, other])["race"] == {"ours bfloat16 / TRL bfloat16": None}
    assert summary([])["sides"] == {}


def test_prompts_that_were_not_scored_are_not_paired() -> None:
    broken = run("TRL bfloat16", 0, 20.0, 4.0, RISING, [0.1, 0.1])
    broken["test"]["errors"] = 1
    with pytest.raises(AssertionError, match="cannot be paired"):
        summary([run("ours bfloat16", 0, 2.0, 10.0, RISING, [0.9, 0.8]), broken])
