"""What held-out evaluations say about a curve: they may veto a stop, or tell that the policy got worse. Pure.

The same prompts are scored each time with the same random numbers, so differences are paired by prompt, and their
standard error comes from the spread of those differences over prompts.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from grpo.types import Evaluation

VETO_ERRORS = 1.645
"""One-sided 95 %: a gain that certainly exceeds delta forbids the stop."""
FALL_ERRORS = 4.0


@dataclass(frozen=True, slots=True)
class Change:
    """Mean paired difference between two evaluations, with its standard error."""

    mean: float
    error: float
    first: int
    """Updates before the earlier evaluation."""
    second: int


def change(before: Evaluation, after: Evaluation) -> Change | None:
    """None where the prompts cannot be paired: some could not be scored, or there are fewer than two."""
    n = len(before.prompt_means)
    if n != len(after.prompt_means) or n < 2 or before.errors or after.errors:
        return None
    differences = np.asarray(after.prompt_means) - np.asarray(before.prompt_means)
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    return Change(float(differences.mean()), error, before.step, after.step)


def veto(evaluations: Seq[Evaluation], delta: float, horizon: int) -> Change | None:
    """The latest gain over at least a horizon, where it is certainly above delta a horizon."""
    if len(evaluations) < 2:
        return None
    last = evaluations[-1]
    earlier = [e for e in evaluations if last.step - e.step >= horizon]
    found = change(earlier[-1], last) if earlier else None
    if found is None:
        return None
    horizons = (found.second - found.first) / horizon
    return found if found.mean - VETO_ERRORS * found.error > delta * horizons else None


def fall(evaluations: Seq[Evaluation], delta: float) -> Change | None:
    """From the best evaluation to the latest, where that is certainly more than delta down."""
    if len(evaluations) < 2:
        return None
    top = max(evaluations[:-1], key=lambda e: e.mean)
    found = change(top, evaluations[-1])
    return found if found and -found.mean - FALL_ERRORS * found.error > delta else None
