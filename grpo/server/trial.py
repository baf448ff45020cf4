"""One completion through a reward function, as a job would send it: to see that it works before a job depends on it."""

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grpo.errors import RewardError
from grpo.rewards import RewardFunction
from grpo.sections import Reward as RewardSection
from grpo.server.errors import Invalid
from grpo.types import Completion, Prompt, Reward

LONGEST_S = 180.0
"""After which no sample is begun."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it."""

    reward: Reward
    seconds: float


@dataclass(frozen=True, slots=True)
class Tried:
    """Several completions, scored one after the other."""

    trials: list[Trial]
    sandbox: str | None
    """Its level; None where the function could not be started."""
    error: str | None = None
    """Why it could not."""


def try_out(section: dict[str, Any], sample: str, item: dict[str, Any], log: Path) -> Trial:
    """``item``: a training row, of which messages may be missing. Raises Invalid for a row that is none."""
    started = time.monotonic()
    tried = try_all(section, [(sample, item)], log)
    if tried.error is not None:
        return Trial(Reward(value=None, error=tried.error), time.monotonic() - started)
    return Trial(tried.trials[0].reward, time.monotonic() - started)


def try_all(section: dict[str, Any], samples: Seq[tuple[str, dict[str, Any]]], log: Path) -> Tried:
    """Samples are completions with their rows. Raises Invalid for a row that is none."""
    asked = [(prompt_of(item, k), completion_of(sample)) for k, (sample, item) in enumerate(samples)]
    try:
        function = RewardFunction(RewardSection.model_validate(section), log)
    except (RewardError, ValidationError) as error:
        return Tried([], None, str(error))
    trials = []
    try:
        began = time.monotonic()
        for prompt, completion in asked:
            started = time.monotonic()
            if started - began > LONGEST_S:
                late = Reward(value=None, error=f"not tried: the samples before it took {LONGEST_S:.0f} s")
                trials.append(Trial(late, 0.0))
                continue
            (group,) = function.score([(prompt, (completion,))])
            trials.append(Trial(group.rewards[0], time.monotonic() - started))
        return Tried(trials, function.sandbox)
    finally:
        function.close()


def prompt_of(item: dict[str, Any], index: int) -> Prompt:
    """A row as a prompt that is not tokenised. Raises Invalid."""
    messages = item.get("messages", [{"role": "user", "content": ""}])
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Invalid("expected a list of {role, content}", param="item.messages")
    return Prompt(
        index=index,
        messages=tuple(messages),
        token_ids=(),
        reference_answer=item.get("reference_answer"),
        metadata={name: value for name, value in item.items() if name not in ("messages", "reference_answer")},
    )


def completion_of(text: str) -> Completion:
    """As a function gets it."""
    return Completion(token_ids=(), logprobs=(), text=text, finish_reason="stop")
