"""Which prompts a step samples. Pure; no torch.

Prompts come epoch after epoch, each in its own seeded order. With ``rollout.skip_silent`` those whose group would most
likely have equal rewards are left out more often than not, before anything is sampled:

    pass rate      Beta posterior from the Jeffreys prior; what was seen counts less with every later visit
    P(signal)      1 - E[p^G] - E[(1 - p)^G]: a group of G has neither passed nor failed as a whole
    chance q       P(signal) / CERTAIN, within [LEAST, 1]; a prompt never seen has 1

The step looks at the first N prompts in the order whose chances sum to what it samples, and picks among them by
systematic sampling (Madow 1949), each with its chance. N and the chances depend on the past alone, so

    1/N sum_i  mu_i + picked_i (r_i - mu_i) / q_i

with mu the posterior mean is an unbiased estimate of the mean reward of the prompts looked at (difference estimator,
Saerndal, Swensson and Wretman, Model Assisted Survey Sampling, 1992, eq. 6.3.3).
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from grpo.points import Floats, Point
from grpo.prompts import visits

PICK_STREAM = 5
PRIOR = 0.5
DISCOUNT = 0.8
"""Of earlier visits' weight with each further visit: the policy changes meanwhile."""
CERTAIN = 0.5
"""A prompt with this probability of a signal is always sampled."""
LEAST = 0.1
"""Chance of the most hopeless prompt: the policy may learn it, or forget it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A prompt the step looks at."""

    index: int
    chance: float = 1.0
    """With which it is sampled."""
    expected: float = 0.0
    """Its mean reward, as far as known; of no effect where the chance is 1."""
    picked: bool = True


@dataclass(frozen=True, slots=True)
class Belief:
    """Beta distribution of a prompt's pass rate."""

    passed: float = PRIOR
    failed: float = PRIOR

    def after(self, rate: float, count: int) -> "Belief":
        """Having seen a group of ``count`` with mean ``rate`` in [0, 1]."""
        return Belief(
            PRIOR + DISCOUNT * (self.passed - PRIOR) + count * rate,
            PRIOR + DISCOUNT * (self.failed - PRIOR) + count * (1 - rate),
        )

    @property
    def mean(self) -> float:
        return self.passed / (self.passed + self.failed)

    def signal(self, count: int) -> float:
        """Probability that a group of ``count`` has both passes and failures."""
        same = _moment(self.passed, self.failed, count) + _moment(self.failed, self.passed, count)
        return max(0.0, 1.0 - same)


def _moment(a: float, b: float, count: int) -> float:
    """E[p^count] of Beta(a, b)."""
    return math.exp(math.lgamma(a + count) - math.lgamma(a) + math.lgamma(a + b) - math.lgamma(a + b + count))


def next_candidates(
    points: Seq[Point], total: int, *, step: int, place: int, count: int, group: int, skip: bool, seed: int
) -> list[Candidate]:
    """The candidates of ``step``, of ``total`` prompts; ``count`` of them are picked.

    Args:
        points: The steps whose rewards are known by then.
        place: Prompts that all steps before looked at.
        group: Completions of a prompt.
        skip: Whether prompts may be left out.
    """
    if not skip:
        return [Candidate(index=index) for index in islice(visits(total, seed, step * count), count)]
    order = visits(total, seed, place)
    bounds, beliefs = scale(points), _beliefs(points, group)
    found = [_candidate(index, beliefs.get(index), bounds, group) for index in islice(order, _most(total, count))]
    return _pick(found, count, np.random.default_rng([seed, PICK_STREAM, step]).random())


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of the mean reward of a step's candidates."""

    mean: float
    half_width: float
    """Of its 95 % interval; NaN for a single prompt."""
    considered: list[int]
    """Whom it speaks of: all candidates but those whose group could not be scored."""
    skipped: int
    """How many of them were not sampled."""


def estimate(candidates: Seq[Candidate], means: Seq[float | None]) -> Estimate:
    """``means``: of the picked candidates' groups in their order; None where nothing could be scored."""
    scored = iter(means)
    terms = {}
    for place, candidate in enumerate(candidates):
        value = next(scored) if candidate.picked else candidate.expected
        if value is not None:
            terms[place] = candidate.expected + (value - candidate.expected) / candidate.chance
    values = list(terms.values())
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Estimate(
        mean=float(np.mean(values)),
        half_width=1.96 * spread,
        considered=[candidates[place].index for place in terms],
        skipped=sum(not candidate.picked for candidate in candidates),
    )


def scale(points: Seq[Point]) -> tuple[float, float] | None:
    """Lowest and highest reward seen; None while they do not differ."""
    low = min((p.lowest for p in points if p.lowest is not None), default=0.0)
    high = max((p.highest for p in points if p.highest is not None), default=0.0)
    return (low, high) if high > low else None


def _beliefs(points: Seq[Point], group: int) -> dict[int, Belief]:
    """What the visits so far tell; a reward between the bounds counts as so much of a pass, which overstates spread."""
    bounds, beliefs = scale(points), dict[int, Belief]()
    if bounds is None:
        return beliefs
    low, high = bounds
    for point in points:
        for index, reward in zip(point.prompts, point.prompt_rewards, strict=True):
            beliefs[index] = beliefs.get(index, Belief()).after((reward - low) / (high - low), group)
    return beliefs


def _candidate(index: int, belief: Belief | None, bounds: tuple[float, float] | None, group: int) -> Candidate:
    if belief is None or bounds is None:
        return Candidate(index=index)
    low, high = bounds
    chance = min(1.0, max(LEAST, belief.signal(group) / CERTAIN))
    return Candidate(index=index, chance=chance, expected=low + (high - low) * belief.mean)


def _most(total: int, count: int) -> int:
    """Candidates that surely have chances enough; not more than there are prompts, unless a step needs them."""
    return max(count, min(total, math.ceil(count / LEAST)))


def _scaled(chances: Floats, count: int) -> Floats:
    """In proportion, up to 1, so that they sum to ``count``, which is not more than there are."""
    chances = np.minimum(1.0, chances * (count / chances.sum()))
    while chances.sum() < count - 1e-9:
        free = chances < 1
        chances = np.where(free, np.minimum(1.0, chances * (count - (~free).sum()) / chances[free].sum()), 1.0)
    return chances


def _pick(found: Seq[Candidate], count: int, start: float) -> list[Candidate]:
    """The first candidates whose chances sum to ``count``, scaled to that sum, and who of them is picked."""
    sums = np.cumsum([candidate.chance for candidate in found])
    needed = min(len(found), 1 + int(np.searchsorted(sums, count - 1e-9)))
    chances = _scaled(np.asarray([candidate.chance for candidate in found[:needed]]), count)
    ends = np.floor(np.round(np.cumsum(chances), 9) + start).astype(int)
    picked = np.diff(ends, prepend=0) > 0
    return [
        replace(candidate, chance=float(chance), picked=bool(chosen))
        for candidate, chance, chosen in zip(found, chances, picked, strict=False)
    ]
