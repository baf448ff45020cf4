"""Each verdict on a curve made for it, with the numbers and the setting it must name."""

import math
from dataclasses import replace

import numpy as np
import pytest

from grpo.convergence import Verdict, judge
from grpo.points import Point
from grpo.sections import Convergence
from grpo.types import Evaluation

RULE = Convergence(delta=0.05, alpha=0.05, horizon=10, min_steps=15)
T = np.arange(200)
RISEN = 0.1 + 0.7 * (1 - np.exp(-T / 8)) + np.random.default_rng(0).normal(0, 0.02, 200)


def points(rewards: np.ndarray, **fields: object) -> list[Point]:
    base = Point(step=0, reward=0.0, signal_share=0.5, lowest=0.0, highest=1.0)
    return [replace(base, step=i, reward=float(r), **fields) for i, r in enumerate(rewards)]


def at_stop(history: list[Point], rule: Convergence = RULE, evaluations: list[Evaluation] | None = None) -> Verdict:
    """The verdict where the run would have ended, within a budget one step longer than the history."""
    known = evaluations or []
    for n in range(1, len(history) + 1):
        seen = [e for e in known if e.step <= n]
        verdict = judge(history[:n], seen, rule, warmup=0, budget=len(history) + 1)
        if verdict.stop:
            break
    return verdict


def evaluation(step: int, level: float) -> Evaluation:
    means = tuple(level + 0.01 * (-1) ** i for i in range(32))
    return Evaluation(step=step, mean=level, low=level - 0.01, high=level + 0.01, n=32, prompt_means=means)


def test_plateau() -> None:
    verdict = at_stop(points(RISEN))
    assert (verdict.status, verdict.stop) == ("plateau", True)
    assert verdict.look is not None
    assert f"upper bound {verdict.look.bound:.4f}" in verdict.reason


def test_a_level_at_the_highest_reward_ever_given_is_a_ceiling() -> None:
    assert at_stop(points(RISEN + 0.18)).status == "converged_ceiling"  # 0.98 of 1
    assert at_stop(points(RISEN + 0.18, highest=None)).status == "plateau"  # unknown
    assert at_stop(points(RISEN), RULE.model_copy(update={"ceiling": 0.82})).status == "converged_ceiling"


def test_a_decayed_learning_rate_is_said() -> None:
    decaying = [replace(p, learning_rate=1e-4 * (1 - p.step / 100)) for p in points(RISEN[:95])]
    slow = RULE.model_copy(update={"min_steps": 80})
    verdict = at_stop(decaying, slow)
    assert verdict.status == "plateau"
    assert "% of its peak, so the schedule may have flattened the curve" in verdict.reason
    assert "schedule" not in at_stop(points(RISEN, learning_rate=1e-4), slow).reason


def test_held_out_prompts_that_still_gain_forbid_the_stop() -> None:
    gaining = [evaluation(step, 0.1 + 0.01 * step) for step in range(0, 90, 10)]
    verdict = at_stop(points(RISEN[:88]), evaluations=gaining)
    assert (verdict.status, verdict.stop) == ("improving", False)
    assert "held-out prompts gained 0.100" in verdict.reason
    level = [evaluation(step, 0.7) for step in range(0, 90, 10)]
    assert at_stop(points(RISEN[:88]), evaluations=level).status == "plateau"


def test_held_out_prompts_that_lose_are_a_regression() -> None:
    rule = RULE.model_copy(update={"min_steps": 60})
    losing = [evaluation(10, 0.5), evaluation(20, 0.7), evaluation(30, 0.55)]
    warned = at_stop(points(RISEN[:35]), rule, losing)
    assert (warned.status, warned.stop) == ("regressed", False)
    stopped = at_stop(points(RISEN[:45]), rule, [*losing, evaluation(40, 0.5)])
    assert (stopped.status, stopped.stop) == ("regressed", True)
    assert "by heart" in stopped.reason
    recovered = at_stop(points(RISEN[:45]), rule, [*losing, evaluation(40, 0.7)])
    assert recovered.status == "improving"


def test_a_slow_fall_is_a_regression_and_ends_the_run_when_it_lasts() -> None:
    rule = RULE.model_copy(update={"min_steps": 100})
    curve = RISEN - np.where(T > 90, np.minimum(0.25, (T - 90) * 0.01), 0)
    statuses = [judge(points(curve[:n]), [], rule, warmup=0, budget=999) for n in range(100, 170)]
    first = next(i for i, v in enumerate(statuses) if v.status == "regressed")
    assert not statuses[first].stop
    stop = next(i for i, v in enumerate(statuses) if v.stop)
    assert statuses[stop].status == "regressed"
    assert stop - first >= 20  # two horizons
    assert "update.learning_rate" in statuses[stop].reason


def test_a_fall_that_recovers_does_not_end_the_run() -> None:
    rule = RULE.model_copy(update={"min_steps": 120})
    curve = RISEN - np.where((T > 100) & (T < 120), 0.25, 0)
    seen = [judge(points(curve[:n]), [], rule, warmup=0, budget=999) for n in range(1, 200)]
    assert "regressed" in {v.status for v in seen}
    assert next(v for v in seen if v.stop).status == "plateau"


def test_losing_most_of_the_rise_is_a_collapse() -> None:
    curve = np.where(T > 100, np.maximum(0.1, RISEN - (T - 100) * 0.05), RISEN)
    history = [replace(p, entropy=1.0 if p.step < 100 else 5.0) for p in points(curve)]
    verdict = at_stop(history, RULE.model_copy(update={"min_steps": 110}))
    assert verdict.status == "collapsed"
    assert "below its best level: the entropy is 5.0 times" in verdict.reason
    assert verdict.look is not None
    assert verdict.look.step <= 130


def test_a_policy_that_breaks_before_it_learns_has_collapsed() -> None:
    flat = 0.1 + np.random.default_rng(1).normal(0, 0.02, 40)
    history = [replace(p, entropy=2.0 if p.step < 12 else 0.01) for p in points(flat)]
    verdict = at_stop(history)
    assert verdict.status == "collapsed"
    assert "one answer whatever the prompt" in verdict.reason


def test_low_entropy_after_a_rise_is_no_collapse() -> None:
    history = [replace(p, entropy=2.0 * math.exp(-p.step / 5)) for p in points(RISEN)]
    assert at_stop(history).status == "plateau"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"truncated_share": 1.0}, "rollout.max_tokens"),
        ({"error_share": 0.9}, "reward.log"),
        ({"lowest": 0.0, "highest": 0.0}, "reward.file"),
        ({}, "rollout.completions_per_prompt"),
    ],
)
def test_no_signal_says_why(fields: dict, why: str) -> None:
    silent = points(np.zeros(25), **({"signal_share": 0.0} | fields))
    verdict = at_stop(silent)
    assert (verdict.status, verdict.stop) == ("no_signal", True)
    assert why in verdict.reason


def test_a_budget_without_a_rise_is_no_signal_and_says_why() -> None:
    flat = points(0.3 + np.random.default_rng(2).normal(0, 0.02, 60))
    verdict = judge(flat, [], RULE, warmup=0, budget=60)
    assert (verdict.status, verdict.stop) == ("no_signal", True)
    assert "update.learning_rate" in verdict.reason


def test_an_unfinished_fall_is_told_at_the_budget() -> None:
    curve = RISEN - np.where(T > 100, 0.2, 0)
    rule = RULE.model_copy(update={"min_steps": 60, "delta": 0.01})  # no plateau before the fall
    assert judge(points(curve[:116]), [], rule, warmup=0, budget=116).status == "regressed"


# Training reward of 22 steps of 96 completions, SmolLM2-135M on sums: learned within ten steps.
STEEP = [0.052, 0.062, 0.115, 0.25, 0.479, 0.469, 0.667, 0.688, 0.729, 0.979, 0.896]
STEEP += [0.927, 1.0, 1.0, 0.969, 0.958, 0.917, 0.938, 0.958, 0.865, 0.99, 1.0]


def test_a_short_and_steep_rise_is_no_lack_of_signal() -> None:
    """To a line through 16 steps the bend is noise; a job of 22 steps must not fail for it."""
    verdict = judge(points(np.array(STEEP)), [], Convergence(), warmup=3, budget=22)
    assert verdict.status == "budget_exhausted"
    flat = judge(points(0.5 + np.random.default_rng(0).normal(0, 0.05, 22)), [], Convergence(), warmup=3, budget=22)
    assert flat.status == "no_signal"


def test_a_small_rise_too_short_to_certify_is_no_lack_of_signal() -> None:
    """0.1 to 0.2 in 67 steps of 64 rollouts: between the outer quarters 0.075, five standard errors of 0.015."""
    rng = np.random.default_rng(1)
    silent = 0
    for _ in range(40):
        rewards = rng.binomial(64, np.linspace(0.1, 0.2, 67)) / 64
        silent += judge(points(rewards), [], Convergence(), warmup=0, budget=67).status == "no_signal"
    assert (
        silent <= 6
    )  # expected 2 of 40: the normal law gives 5 % beyond 5 - 3 = 2 errors; binomial 0.95: P(> 6) < 1 %
