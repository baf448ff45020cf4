"""One completion through a reward function, as a job would send it: to see that it works before a job depends on it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grpo.errors import RewardError
from grpo.rewards import RewardFunction
from grpo.sections import Reward as RewardSection
from grpo.server.errors import Invalid
from grpo.types import Completion, Prompt, Reward


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it."""

    reward: Reward
    seconds: float


def try_out(section: dict[str, Any], sample: str, item: dict[str, Any], log: Path) -> Trial:
    """``item``: a training row, of which messages may be missing. Raises Invalid for a row that is none."""
    messages = item.get("messages", [{"role": "user", "content": ""}])
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Invalid("expected a list of {role, content}", param="item.messages")
    metadata = {name: value for name, value in item.items() if name not in ("messages", "reference_answer")}
    prompt = Prompt(
        index=0,
        messages=tuple(messages),
        token_ids=(),
        reference_answer=item.get("reference_answer"),
        metadata=metadata,
    )
    completion = Completion(token_ids=(), logprobs=(), text=sample, finish_reason="stop")
    started = time.monotonic()
    try:
        function = RewardFunction(RewardSection.model_validate(section), log)
    except (RewardError, ValidationError) as error:
        return Trial(Reward(value=None, error=str(error)), time.monotonic() - started)
    try:
        (group,) = function.score([(prompt, (completion,))])
    finally:
        function.close()
    return Trial(group.rewards[0], time.monotonic() - started)
