"""A step's groups as the pages show them, with advantages as the trainer had them. Pure."""

import math
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Any

from grpo import advantages
from grpo.console.index import QUESTION
from grpo.sections import Update
from grpo.types import Completion, Group, Reward

EPSILON = 1e-6
"""Of the kernels (grpo_kernels/plain_loss.py)."""


def group(one: Group, update: Update, max_tokens: int) -> dict[str, Any]:
    """One prompt with all its completions."""
    return {
        "prompt": {"index": one.prompt.index, "messages": list(one.prompt.messages)},
        "reference_answer": one.prompt.reference_answer,
        "extra": one.extra,
        "silent": advantages.has_no_signal(one),
        "completions": [
            _completion(c, r, gain)
            for c, r, gain in zip(one.completions, one.rewards, gains(one, update, max_tokens), strict=True)
        ],
    }


def rows(step: int, groups: Seq[Group], update: Update, max_tokens: int) -> Iterator[tuple[Any, ...]]:
    """For the index, completion by completion."""
    for place, one in enumerate(groups):
        question = _words(one.prompt.messages[-1])[:QUESTION] if one.prompt.messages else ""
        each = zip(one.completions, one.rewards, gains(one, update, max_tokens), strict=True)
        for member, (c, r, gain) in enumerate(each):
            where = (step, place, member, one.prompt.index)
            error = r.error or c.error
            told = (finite(r.value), finite(gain), c.sampled, c.finish_reason)
            yield (*where, *told, whole(error) if error else None, whole(question), whole(c.text))


def gains(one: Group, update: Update, max_tokens: int) -> list[float | None]:
    """The advantage of each completion; None where it could not be scored."""
    pairs = zip(one.completions, one.rewards, strict=True)
    shaped = [
        r.value + advantages.overlong_penalty(c.sampled, update, max_tokens) for c, r in pairs if r.value is not None
    ]
    found = iter([0.0] * len(shaped) if advantages.has_no_signal(one) else shares(shaped, update.advantages))
    return [next(found) if r.value is not None else None for r in one.rewards]


def shares(values: Seq[float], form: str) -> list[float]:
    """Advantages of one group's rewards, as grpo.advantages.normalise has them, without torch: it takes seconds."""
    if len(values) < 2 or max(values) == min(values):
        return [0.0] * len(values)
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    factor = {"std": 1 / (deviation + EPSILON), "none": 1.0, "leave_one_out": len(values) / (len(values) - 1)}[form]
    return [(value - mean) * factor for value in values]


def whole(text: str) -> str:
    """Without lone surrogates, which have no form in UTF-8."""
    return text.encode("utf-8", "replace").decode()


def plain(content: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(content, dict):
        return {name: plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return finite(content) if isinstance(content, float) else content


def finite(value: float | None) -> float | None:
    """None for what JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None


def _completion(completion: Completion, reward: Reward, advantage: float | None) -> dict[str, Any]:
    return {
        "text": completion.text,
        "reasoning": completion.reasoning,
        "turns": list(completion.turns),
        "tokens": completion.sampled,
        "finish_reason": completion.finish_reason,
        "mean_logprob": finite(sum(completion.logprobs) / (completion.sampled or 1)),
        "reward": finite(reward.value),
        "parts": {name: finite(value) for name, value in reward.parts.items()},
        "error": reward.error or completion.error,
        "advantage": finite(advantage),
    }


def _words(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
