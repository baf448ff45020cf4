"""The stop rule against a bank of curves, and the rules people use. Writes results/results.json and .md.

.venv/bin/python benchmarks/convergence/run.py [--runs 2000] [--rival-runs 400] [--out DIR]
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import bank
import extras
import measures
import numpy as np
import rivals
from measures import CRITERION
from rich.progress import track
from tables import report

from grpo.flatness import Series

LEVELLING = ("fast", "slow", "power law", "late take-off", "second rise", "ceiling")
"""Families that level off and stay so for a while: the ones where stopping is right."""
RIVALS: dict[str, Callable[[bank.Floats], rivals.Stops]] = {
    "EMA, patience 20": rivals.ema_patience,
    "HF EarlyStopping": rivals.early_stopping,
    "Ray std plateau": rivals.std_plateau,
    "Mann-Kendall": rivals.mann_kendall,
    "slope bound, no spending": partial(rivals.slope_bound, delta=CRITERION.delta, horizon=CRITERION.horizon),
}


def cell(task: tuple[str, str], runs: int, rival_runs: int, limits: dict[str, dict[int, float]]) -> dict[str, Any]:
    """All rules on one family under one noise law; the rivals see the first of the same curves."""
    family, law = task
    seed = [list(bank.curves()).index(family), bank.LAWS.index(law)]
    rewards, steps = bank.observe(family, law, runs, np.random.default_rng(seed))
    course = measures.follow(Series(rewards_RT=rewards, steps_T=steps))
    result: dict[str, Any] = {"family": family, "law": law}
    result["ours"] = (
        measures.stopping(family, measures.in_steps(course.end, steps))
        | measures.alarms(family, measures.in_steps(course.alarm, steps))
        | measures.given_up(family, rewards, steps, course.end)
    )
    few = rewards[:rival_runs]
    result["rivals"] = {
        name: measures.stopping(family, measures.in_steps(rule(few), steps)) for name, rule in RIVALS.items()
    }
    if family in LEVELLING:
        stop = rivals.oracle(family, few, steps, limits[law], CRITERION.delta, CRITERION.horizon)
        result["oracle"] = measures.stopping(family, measures.in_steps(stop, steps))
    return result


def all_cells(pool: Pool, runs: int, rival_runs: int) -> list[dict[str, Any]]:
    """Every family under every noise law."""
    limits = dict(zip(bank.LAWS, pool.map(rivals.thresholds, bank.LAWS), strict=True))
    one = partial(cell, runs=runs, rival_runs=rival_runs, limits=limits)
    tasks = list(product(bank.curves(), bank.LAWS))
    return list(track(pool.imap(one, tasks), "cells", total=len(tasks)))


def main() -> None:
    """Run every cell in parallel, then the smaller questions; write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--rival-runs", type=int, default=400)
    parser.add_argument("--only", help="renew one of the smaller questions in results.json")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    kept = json.loads((arguments.out / "results.json").read_text()) if arguments.only else {}
    asked = {n: q for n, q in extras.questions(arguments.runs).items() if arguments.only in (None, n)}
    with Pool() as pool:
        cells = kept["cells"] if kept else all_cells(pool, arguments.runs, arguments.rival_runs)
        answers = {
            name: list(track(pool.imap(question, cases), name, total=len(cases)))
            for name, (question, cases) in asked.items()
        }
    results = {"cells": cells} | kept | answers
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = "\n".join(report(results, list(bank.curves()), LEVELLING, list(RIVALS))) + "\n"
    (arguments.out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
