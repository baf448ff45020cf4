"""What goes wrong in a run while it goes on, in words: what was seen, and the likely remedy. Never decides. Pure.

The stop rule ends a run on what is certain; these speak earlier, and may be wrong.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from grpo.health import RECENT, Finding, beginning, broken, degenerate, recent, typical, why_silent
from grpo.points import Point
from grpo.types import Evaluation

GRADER_FAILS, CUT, SILENT = 0.1, 0.5, 0.9
"""Shares of completions, completions and groups, of which more is an alarm."""
GROWN = 2.0
"""Completions this many times as long as at first, without more reward, are an explosion of length."""
LATE = 50
"""Steps after which a curve should have left its beginning."""
BAND = 2.0
"""Typical differences of two neighbouring steps, within which a curve does not visibly move."""
BEFORE = 10
"""Steps before an evaluation that say what the training reward was then."""
LOST = 0.5
"""Of the rise: a fall by more than this share is a collapse under way."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that seems wrong."""

    name: str
    text: str
    advice: str


def alarms(points: Seq[Point], evaluations: Seq[Evaluation] = ()) -> list[Alarm]:
    """All that hold after the last of ``points``, the gravest first."""
    if len(points) < RECENT:
        return []
    found = [
        _of("broken", broken(points)),
        _grader(points),
        _silent(points),
        _collapsing(points),
        _of("degenerate", degenerate(points) if _flat(points) else None),
        _apart(points, evaluations),
        _length(points),
        _cut(points),
        _of("flat", why_silent(points) if len(points) >= LATE and _flat(points) else None),
    ]
    return [alarm for alarm in found if alarm]


def _of(name: str, finding: Finding | None) -> Alarm | None:
    return Alarm(name, finding.cause, finding.advice) if finding else None


def _grader(points: Seq[Point]) -> Alarm | None:
    share = recent(points, "error_share")
    if share is None or share <= GRADER_FAILS:
        return None
    return Alarm("grader", f"{share:.0%} of the completions could not be scored", "look into reward.log")


def _silent(points: Seq[Point]) -> Alarm | None:
    signal = recent(points, "signal_share")
    if signal is None or 1 - signal < SILENT:
        return None
    reward = recent(points, "reward") or 0.0
    return Alarm(
        "silent",
        f"in {1 - signal:.0%} of the groups all rewards are equal; updates learn from the rest alone",
        "take harder prompts" if reward > 0 else "nothing is rewarded: take easier prompts, or give partial credit",
    )


def _collapsing(points: Seq[Point]) -> Alarm | None:
    levels = [typical(points[k : k + RECENT], "reward") or 0.0 for k in range(len(points) - RECENT + 1)]
    now, best = levels[-1], max(levels)
    if best <= levels[0] or best - now <= LOST * (best - levels[0]) or best - now < _noise(points):
        return None
    return Alarm(
        "collapsing",
        f"the reward fell from {best:.3f} to {now:.3f}",
        "the updates may be too large: lower update.learning_rate, or set update.kl_coef",
    )


def _apart(points: Seq[Point], evaluations: Seq[Evaluation]) -> Alarm | None:
    """Reward up, held-out down."""
    if len(evaluations) < 2:
        return None
    best, last = max(evaluations[:-1], key=lambda e: e.mean), evaluations[-1]
    before, now = (
        recent([p for p in points if best.step - BEFORE <= p.step < best.step], "reward"),
        recent(points, "reward"),
    )
    if last.high >= best.mean or before is None or now is None or now <= before:
        return None
    return Alarm(
        "apart",
        f"the training reward rose from {before:.3f} to {now:.3f} while the held-out one fell from {best.mean:.3f} to "
        f"{last.mean:.3f}",
        "the policy learns its prompts by heart or exploits the reward: use more prompts, or set update.kl_coef",
    )


def _length(points: Seq[Point]) -> Alarm | None:
    now, before = recent(points, "length"), beginning(points, "length")
    if not now or not before or now < GROWN * before or not _flat(points):
        return None
    return Alarm(
        "length",
        f"completions grew from {before:.0f} to {now:.0f} tokens, and the reward did not",
        "the reward may pay for length alone; set update.overlong_buffer, or change the reward function",
    )


def _cut(points: Seq[Point]) -> Alarm | None:
    share = recent(points, "truncated_share")
    if share is None or share <= CUT:
        return None
    return Alarm("cut", f"{share:.0%} of the completions are cut at the limit", "raise rollout.max_tokens")


def _flat(points: Seq[Point]) -> bool:
    """Not visibly above where it began."""
    now, before = recent(points, "reward"), beginning(points, "reward")
    return now is not None and before is not None and now - before <= _noise(points)


def _noise(points: Seq[Point]) -> float:
    """What a median of some steps moves by chance: from differences of neighbours, which no trend disturbs."""
    rewards = [p.reward for p in points if math.isfinite(p.reward)]
    steps = [abs(b - a) for a, b in pairwise(rewards)]
    return BAND * (median(steps) if steps else 0.0)
