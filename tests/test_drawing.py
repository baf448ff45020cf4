"""Which prompts a step samples, and that leaving some out does not bend what is reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import betabinom
from test_groups import HALF_SILENT

from grpo import drawing
from grpo.drawing import LEAST, Belief, Candidate, estimate, next_candidates
from grpo.points import Point
from grpo.prompts import visits

import runs

GROUP, COUNT, TOTAL = 8, 16, 200


def step(number: int, prompts: list[int], rewards: list[float], visited: int) -> Point:
    return Point(
        step=number,
        reward=float(np.mean(rewards)),
        lowest=0.0,
        highest=1.0,
        prompts=tuple(prompts),
        prompt_rewards=tuple(rewards),
        visited=visited,
    )


def history(rates: np.ndarray, epochs: int, seed: int) -> list[Point]:
    """Every prompt seen once an epoch, by chance passed or not."""
    rng = np.random.default_rng(seed)
    points = []
    for _ in range(epochs):
        for start in range(0, len(rates), 20):
            chosen = list(range(start, start + 20))
            rewards = [float(rng.binomial(GROUP, rates[i]) / GROUP) for i in chosen]
            points.append(step(len(points), chosen, rewards, 20))
    return points


def upcoming(points: list[Point], total: int, **given: Any) -> list[Candidate]:
    """Of the step after ``points``, all of whose rewards are known."""
    return next_candidates(points, total, step=len(points), place=sum(p.visited for p in points), **given)


@pytest.mark.parametrize(("passed", "failed"), [(0.5, 0.5), (8.5, 0.5), (3.2, 7.9), (40.0, 0.5)])
def test_probability_of_a_signal(passed: float, failed: float) -> None:
    """Expected: scipy's beta-binomial distribution."""
    expected = 1 - betabinom.pmf([0, GROUP], GROUP, passed, failed).sum()
    assert Belief(passed, failed).signal(GROUP) == pytest.approx(expected, abs=1e-12)


def test_beliefs_by_hand() -> None:
    """8 of 8, then 4 of 8: 0.5 + 0.8 * 8 + 4 = 10.9 passed, 0.5 + 4 = 4.5 failed."""
    belief = Belief().after(1.0, 8).after(0.5, 8)
    assert (belief.passed, belief.failed) == (pytest.approx(10.9), pytest.approx(4.5))
    assert belief.mean == pytest.approx(10.9 / 15.4)


def test_without_skipping_the_order_is_that_of_the_visits() -> None:
    points = [step(i, [0], [1.0], 16) for i in range(3)]
    found = upcoming(points, TOTAL, count=COUNT, group=GROUP, skip=False, seed=5)
    order = visits(TOTAL, 5, 3 * COUNT)
    assert [c.index for c in found] == [next(order) for _ in range(COUNT)]
    assert all(c.picked and c.chance == 1.0 for c in found)
    assert estimate(found, [float(i) for i in range(COUNT)]).mean == 7.5


def test_the_mean_over_all_candidates_is_unbiased() -> None:
    """2,000 steps after the same past, against the true rates of the candidates; the sampled prompts' mean is off."""
    rng = np.random.default_rng(0)
    rates = rng.choice([0.01, 0.5, 0.97, 1.0], TOTAL, p=[0.2, 0.2, 0.3, 0.3])
    points = history(rates, epochs=4, seed=1)
    ours, plain, picks = [], [], []
    for seed in range(2000):
        found = upcoming(points, TOTAL, count=COUNT, group=GROUP, skip=True, seed=seed)
        truth = float(np.mean([rates[c.index] for c in found]))
        means = [rng.binomial(GROUP, rates[c.index]) / GROUP for c in found if c.picked]
        ours.append(estimate(found, means).mean - truth)
        plain.append(float(np.mean(means)) - truth)
        picks.append(len(means))
    assert set(picks) == {COUNT}
    error = np.std(ours) / len(ours) ** 0.5
    assert abs(np.mean(ours)) < 3 * error
    assert abs(np.mean(plain)) > 20 * error, "what is corrected for is large"


def test_each_is_picked_with_its_chance() -> None:
    """Madow's systematic sampling, by 4,000 starts: the share of a candidate's picks is its chance."""
    found = [Candidate(index=i, chance=c) for i, c in enumerate([0.9, 0.1, 0.1, 0.35, 0.8, 0.75, 0.5, 1.0])]
    starts = (np.arange(4000) + 0.5) / 4000
    picks = np.array([[c.picked for c in drawing._pick(found, 4, start)] for start in starts])
    chances = [c.chance for c in drawing._pick(found, 4, 0.0)]
    assert sum(chances) == pytest.approx(4)
    assert np.abs(picks.mean(0) - chances).max() < 1 / 2000
    assert set(picks.sum(1)) == {4}


def test_more_of_the_sampled_have_a_signal() -> None:
    """After three full passes a belief has 0.5 + 8 (1 + 0.8 + 0.64) = 20 passed: P(signal) 0.15, chance 0.31; so a
    quarter of useful prompts becomes 0.25 / (0.25 + 0.75 * 0.31) = 0.52 of those sampled."""
    rates = np.where(np.arange(TOTAL) % 4 == 0, 0.5, 1.0)
    points = history(rates, epochs=3, seed=2)
    found = [upcoming(points, TOTAL, count=COUNT, group=GROUP, skip=True, seed=seed) for seed in range(50)]
    share = np.mean([rates[c.index] < 1 for candidates in found for c in candidates if c.picked])
    assert share == pytest.approx(0.52, abs=0.04)
    assert min(c.chance for candidates in found for c in candidates) >= LEAST * 0.9


@pytest.mark.parametrize(
    ("chances", "scaled"),
    [
        ([1.0, 1.0, 0.4], [5 / 6, 5 / 6, 1 / 3]),  # too much: all by 2 / 2.4
        ([0.2, 0.2, 0.1], [0.8, 0.8, 0.4]),
        ([0.9, 0.1, 0.1], [1.0, 0.5, 0.5]),  # by 2 / 1.1 the first would pass 1; the rest share what is left
    ],
)
def test_chances_sum_to_what_is_sampled(chances, scaled) -> None:
    assert drawing._scaled(np.array(chances), 2) == pytest.approx(scaled)


@pytest.mark.parametrize("total", [1, 5, 16, 40])
def test_few_prompts(total: int) -> None:
    """All of them silent: the step has its prompts all the same, as far as there are any."""
    points = [step(0, list(range(total)), [1.0] * total, 0)]
    points += [step(1, [0], [0.0], 0)]
    found = upcoming(points, total, count=16, group=GROUP, skip=True, seed=0)
    assert sum(c.picked for c in found) == 16
    assert all(0 < c.chance <= 1 for c in found)


def test_a_group_that_could_not_be_scored_is_in_no_mean() -> None:
    found = [Candidate(index=7), Candidate(index=8, chance=0.5, expected=0.8, picked=False), Candidate(index=9)]
    told = estimate(found, [0.2, None])
    assert (told.mean, told.considered, told.skipped) == (pytest.approx(0.5), [7, 8], 1)


def test_a_picked_candidate_by_hand() -> None:
    """0.9 + (0.5 - 0.9) / 0.4 = -0.1, and 1: mean 0.45, spread 0.55 * sqrt(2) / sqrt(2)."""
    found = [Candidate(index=1, chance=0.4, expected=0.9), Candidate(index=2)]
    told = estimate(found, [0.5, 1.0])
    assert told.mean == pytest.approx(0.45)
    assert told.half_width == pytest.approx(1.96 * 0.55)


@pytest.mark.slow
def test_a_training_skips_and_resumes_as_if_nothing_happened(tiny_run, tmp_path: Path) -> None:
    """Prompts with an even number always score alike: they are sampled less. Killed after step 5, all is the same."""
    config = tiny_run("whole", steps=12)
    (tmp_path / "reward.py").write_text(HALF_SILENT)
    skip = "rollout.skip_silent=true"
    runs.train(config, skip)
    whole = runs.metrics(tmp_path / "whole")
    half = tiny_run("killed", steps=12)
    process = runs.start(half, skip)
    runs.wait_for_step(process, tmp_path / "killed", 5)
    runs.kill(process)
    runs.train(half, skip)
    assert json.dumps(runs.metrics(tmp_path / "killed")) == json.dumps(whole)
    assert [m["visited_prompts"] for m in whole[:2]] == [4, 4], "nothing is known of prompts never seen"
    sampled = [i for m in whole[6:] for i in m["prompts"]]
    assert sum(i % 2 == 0 for i in sampled) < 0.4 * len(sampled)
    assert sum(m["visited_prompts"] for m in whole[6:]) > 30
