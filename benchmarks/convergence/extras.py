"""Smaller questions: short jobs, trade-offs, prompt difficulty, forecasts. Each case gives one row of a table."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import bank
import measures
import numpy as np
from measures import CRITERION
from rivals import NEVER

from grpo.falls import stands_above_start
from grpo.flatness import Series, looks
from grpo.forecast import forecast
from grpo.points import Point, difficulty

JOBS, ROLLOUTS = (15, 67, 188), (32, 64, 256)
BUDGETS, STEEP = (22, 67, 188), 10
"""Budgets of jobs that are never certified flat, and the steps a steep rise takes."""
PROMPTS, PER_STEP, COMPLETIONS = 264, 12, 8
FORECAST_AT, FORECASTS = 150, 200
TRADED_LAWS, TRADED_FAMILIES = ("ar 0.8", "bernoulli 32"), ("slow", "line", "staircase", "cyclic")

Row = dict[str, Any]


def questions(runs: int) -> dict[str, tuple[Callable[..., Row], list[Any]]]:
    """Name: how to answer one case, and the cases."""
    return {
        "short jobs": (short_job, [(job, n, runs) for job, n in product(JOBS, ROLLOUTS)]),
        "budget": (budget_end, [(job, n, runs) for job, n in product(BUDGETS, ROLLOUTS)]),
        "alpha": (alpha_trade, [(alpha, runs) for alpha in (0.01, 0.05, 0.2, 0.5)]),
        "alarm": (alarm_trade, [(limit, runs) for limit in (-0.02, 0.0, 0.02, 0.04, 0.08)]),
        "checkpoint": (checkpoint_trade, [(half, runs) for half in (5, 10, 20, 40, 80)]),
        "difficulty": (prompt_difficulty, [(known, min(runs, 300)) for known in (False, True)]),
        "forecast": (forecasts, ["fast", "slow", "late take-off"]),
    }


def series(rewards: bank.Floats) -> Series:
    """Curves without gaps."""
    return Series(rewards_RT=rewards, steps_T=np.arange(rewards.shape[1], dtype=float))


def short_job(case: tuple[int, int, int]) -> Row:
    """A job of a fixed budget on a curve that levels off after half of it, below a known ceiling or at it."""
    job, rollouts, runs = case
    row: Row = {"steps": job, "rollouts": rollouts}
    for name, end, criterion in (("below", 0.9, CRITERION), ("at", 1.0, replace(CRITERION, ceiling=1.0))):
        mean = 0.1 + (end - 0.1) * (1 - np.exp(-np.arange(job) * 8 / job))
        rewards = np.random.default_rng([job, rollouts]).binomial(rollouts, mean, (runs, job)) / rollouts
        stop = measures.follow(series(rewards), criterion).end
        row |= {name: float((stop < NEVER).mean()), f"{name}_median": float(np.median(np.minimum(stop, job)))}
    return row


def budget_end(case: tuple[int, int, int]) -> Row:
    """How often the end of the budget is called no_signal: wrong on a curve that rose, right on a flat one."""
    job, rollouts, runs = case
    ramp = np.linspace(0, 1, job)
    curves = {
        "steep": 0.05 + 0.9 * bank.sigmoid((np.arange(job) - STEEP) * 8 / STEEP),
        "steady": 0.1 + 0.8 * ramp,
        "small": 0.1 + 0.1 * ramp,
        "flat": np.full(job, 0.1),
    }
    row: Row = {"steps": job, "rollouts": rollouts}
    rng = np.random.default_rng([job, rollouts])
    observed = {name: rng.binomial(rollouts, mean, (runs, job)) / rollouts for name, mean in curves.items()}
    observed["flat, ar 0.8"] = 0.1 + bank.autoregressive(0.8, (runs, job), rng) * (0.09 / rollouts) ** 0.5
    for name, rewards in observed.items():
        *_, last = looks(series(rewards), CRITERION)
        row[name] = float((~last.rose & ~stands_above_start(rewards)).mean())
    return row


def alpha_trade(case: tuple[float, int]) -> Row:
    """False stops on the least favourable line against the delay on a fast curve, by alpha."""
    alpha, runs = case
    row: Row = {"alpha": alpha}
    for law in ("gaussian", "ar 0.8"):
        criterion = replace(CRITERION, alpha=alpha)
        line, fast = (
            measures.follow(series(bank.observe(family, law, runs, np.random.default_rng(5))[0]), criterion).end
            for family in ("line at delta", "fast")
        )
        row[law] = {
            "false": float((line < NEVER).mean()),
            "median": float(np.median(np.minimum(fast, bank.STEPS))),
        }
    return row


def alarm_trade(case: tuple[float, int]) -> Row:
    """False alarms on a plateau against falls heard in time, by the size of the fall that raises the alarm."""
    limit, runs = case
    row: Row = {"fall": limit}
    for law in ("ar 0.8", "bernoulli 32"):
        heard = {}
        for family in ("ceiling", "regression", "collapse"):
            rewards = bank.observe(family, law, runs, np.random.default_rng(6))[0]
            heard[family] = measures.alarms(family, measures.follow(series(rewards), tolerance=limit).alarm)
        row[law] = {
            "false": heard["ceiling"]["false_alarm"],
            "slow": heard["regression"]["heard_in_time"],
            "quick": heard["collapse"]["heard_in_time"],
        }
    return row


def checkpoint_trade(case: tuple[int, int]) -> Row:
    """Reward given up by the returned checkpoint under the loudest laws, by how far around a step is looked.

    A wide look tells the level well and blurs a peak; no width is best for a slow curve and a cyclic one.
    """
    half, runs = case
    row: Row = {"half": half}
    for law in TRADED_LAWS:
        for family in TRADED_FAMILIES:
            rewards, steps = bank.observe(family, law, runs, np.random.default_rng(7))
            end = measures.follow(series(rewards)).end
            lost = measures.given_up(family, rewards, steps, end, half)
            row[f"{family}, {law}"] = [lost["given_up"], lost["given_up_95"]]
    return row


def prompt_difficulty(case: tuple[bool, int]) -> Row:
    """Curves of a population of prompts of very different difficulty, with and without knowing which were drawn."""
    known, runs = case
    rng = np.random.default_rng(8)
    curves, expected = np.empty((runs, bank.STEPS)), np.zeros((runs, bank.STEPS))
    for run in range(runs):
        points = population(rng)
        curves[run] = [p.reward for p in points]
        expected[run] = difficulty(points)
    told = replace(series(curves), difficulty_RT=expected if known else None)
    quiet = told.upto(bank.STEPS).rewards_RT
    stop = measures.follow(told).end
    return {
        "known": known,
        "spread": float(np.median(np.abs(np.diff(quiet, axis=1))) * 1.4826 / np.sqrt(2)),
        "median": float(np.median(np.minimum(stop, bank.STEPS))),
        "stopped": float((stop < NEVER).mean()),
    }


def population(rng: np.random.Generator) -> list[Point]:
    """One run: 264 prompts, 12 a step in epochs, 8 answers each, right with a chance that grows from step to step."""
    skill = -3 + 4 * (1 - np.exp(-np.arange(bank.STEPS) / 40))
    hardness = rng.normal(0, 2, PROMPTS)
    order = np.concatenate([rng.permutation(PROMPTS) for _ in range(bank.STEPS * PER_STEP // PROMPTS + 1)])
    points = []
    for step in range(bank.STEPS):
        drawn = order[step * PER_STEP : (step + 1) * PER_STEP]
        means = rng.binomial(COMPLETIONS, bank.sigmoid(skill[step] - hardness[drawn])) / COMPLETIONS
        prompts = tuple(int(p) for p in drawn)
        points.append(Point(step=step, reward=float(means.mean()), prompts=prompts, prompt_rewards=tuple(means)))
    return points


def forecasts(family: str) -> Row:
    """How often the 90 % intervals after 150 steps hold the rule's actual stop and the true reward there."""
    rewards, steps = bank.observe(family, "gaussian", FORECASTS, np.random.default_rng(9))
    stop = np.minimum(measures.follow(Series(rewards_RT=rewards, steps_T=steps)).end, bank.STEPS)
    level = bank.curves()[family][stop - 1]
    found = []
    for row in range(FORECASTS):
        seen = Series(rewards_RT=rewards[row : row + 1, :FORECAST_AT], steps_T=steps[:FORECAST_AT])
        result = forecast(seen, CRITERION, bank.STEPS)
        if result and stop[row] > FORECAST_AT:
            low, _, high = result.steps
            first, _, last = result.reward
            found.append(
                (low <= stop[row] <= high, first <= level[row] <= last, result.steps[1] - stop[row], last - first)
            )
    inside, covered, error, width = np.array(found, dtype=float).T
    return {
        "family": family,
        "forecasts": len(found),
        "stop_covered": float(inside.mean()),
        "stop_error": float(np.median(np.abs(error))),
        "reward_covered": float(covered.mean()),
        "reward_width": float(np.median(width)),
    }
