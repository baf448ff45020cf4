"""Can GRPO learn from this? What the base model's completions and their rewards say before any training. Pure."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from grpo.advantages import has_no_signal
from grpo.health import HALF, MOST, Finding
from grpo.types import Group

FEWEST_USEFUL = 2.0
"""Groups with a signal in an average step; below that most updates follow one prompt or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """One sample of the base model's work; shares are of completions, but for ``zero_variance_share``, of groups."""

    prompts: int
    completions: int
    mean: float | None
    """None where nothing could be scored."""
    lowest: float | None
    highest: float | None
    zero_variance_share: float
    error_share: float
    truncated_share: float
    tokens: float
    """Mean length of a completion."""
    seconds: float
    """For scoring one completion, on average."""
    useful_groups: float
    """Groups with a signal to be expected in a step."""
    can_learn: bool
    findings: tuple[Finding, ...]
    """What stands against it or will slow it down."""


def rehearse(groups: Seq[Group], seconds: float, prompts_per_step: int) -> Rehearsal:
    """Sum up sampled and scored groups; ``seconds``: the scoring took."""
    pairs = [pair for group in groups for pair in zip(group.completions, group.rewards, strict=True)]
    values = [value for group in groups for value in group.values]
    silent = sum(has_no_signal(group) for group in groups) / len(groups)
    errors = 1 - len(values) / len(pairs)
    truncated = sum(completion.finish_reason == "length" for completion, _ in pairs) / len(pairs)
    useful = prompts_per_step * (1 - silent)
    stops = tuple(_stops(groups, values, silent, errors, truncated))
    return Rehearsal(
        prompts=len(groups),
        completions=len(pairs),
        mean=float(np.mean(values)) if values else None,
        lowest=min(values, default=None),
        highest=max(values, default=None),
        zero_variance_share=silent,
        error_share=errors,
        truncated_share=truncated,
        tokens=float(np.mean([completion.sampled for completion, _ in pairs])),
        seconds=seconds / len(pairs),
        useful_groups=useful,
        can_learn=not stops,
        findings=stops or tuple(_slows(errors, truncated, useful)),
    )


def _stops(groups: Seq[Group], values: Seq[float], silent: float, errors: float, truncated: float) -> list[Finding]:
    """Reasons why nothing would be learned."""
    found = []
    if errors > HALF:
        first = next(r.error for group in groups for r in group.rewards if r.value is None)
        found.append(Finding(f"{errors:.0%} of the completions could not be scored, first: {first}", "mend the grader"))
    if truncated > MOST and silent == 1:
        found.append(Finding(f"{truncated:.0%} of the completions are cut at the limit", "raise rollout.max_tokens"))
    if values and silent == 1 and max(values) == min(values):
        found.append(
            Finding(
                f"every completion gets the reward {values[0]:g}",
                "the grader may compare the wrong fields, or the task is far too hard or too easy: give partial credit",
            )
        )
    elif values and silent == 1:
        found.append(
            Finding(
                "all completions of a prompt get the same reward",
                "raise rollout.completions_per_prompt or rollout.temperature, or give partial credit",
            )
        )
    return found


def _slows(errors: float, truncated: float, useful: float) -> list[Finding]:
    """What will make learning slow or noisy."""
    found = []
    if useful < FEWEST_USEFUL:
        found.append(
            Finding(
                f"a step has {useful:.1f} groups whose rewards differ, on average",
                "raise rollout.prompts_per_step or rollout.completions_per_prompt, or take easier prompts",
            )
        )
    if errors > 0:
        found.append(Finding(f"{errors:.0%} of the completions could not be scored", "look into the errors below"))
    if truncated > HALF:
        found.append(Finding(f"{truncated:.0%} of the completions are cut at the limit", "raise rollout.max_tokens"))
    return found
