"""Where the stop rule would have ended a curve that is already there, and what that gives up and saves. Pure."""

from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from grpo.convergence import Look, Verdict, all_looks, curve_verdict
from grpo.points import Point
from grpo.sections import Convergence
from grpo.types import Evaluation

LEVEL_STEPS = 10
"""Rewards are compared as means of this many steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the rule says of a whole curve."""

    verdict: Verdict
    """At the stop, or after the last step."""
    stop_step: int | None
    """Steps after which the run would have ended; None where it would have gone on."""
    reward_at_stop: float | None
    final_reward: float
    saved: float
    """Share of the steps that would not have been taken."""
    looks: list[Look]
    """Up to the stop."""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "verdict": self.verdict.status,
            "reason": self.verdict.reason,
            "stop_step": self.stop_step,
            "reward_at_stop": self.reward_at_stop,
            "final_reward": self.final_reward,
            "saved": self.saved,
            "looks": [asdict(look) for look in self.looks],
        }


def replay(points: Seq[Point], config: Convergence, *, warmup: int = 0, evaluations: Seq[Evaluation] = ()) -> Replay:
    """Follow the curve step by step until the rule stops. ``points`` holds at least one step."""
    looks = all_looks(points, config, warmup)
    stop, seen, verdict = None, [], None
    for n in range(1, len(points) + 1):
        done = points[n - 1].step + 1
        seen = [look for look in looks if look.step <= done]
        known = [e for e in evaluations if e.step <= done]
        verdict = curve_verdict(points[:n], known, seen, config)
        if verdict.stop:
            stop = n
            break
    assert verdict is not None  # there is at least one step
    return Replay(
        verdict=verdict,
        stop_step=points[stop - 1].step + 1 if stop else None,
        reward_at_stop=_level(points[:stop]) if stop else None,
        final_reward=_level(points),
        saved=1 - stop / len(points) if stop else 0.0,
        looks=seen,
    )


def _level(points: Seq[Point]) -> float:
    return float(np.mean([p.reward for p in points[-LEVEL_STEPS:]]))
