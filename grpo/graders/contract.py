"""What the graders of this directory share: reading a sample, and answering a batch. Standard library only."""

import json
import math
import os
import re
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

Sample = dict[str, Any]
FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\n`]*)\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


def options(known: dict[str, Any]) -> dict[str, Any]:
    """The grader's settings over their defaults. Raises ValueError for one it does not know."""
    given = json.loads(os.environ.get("GRADER_OPTIONS", "{}"))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"reward.options: unknown {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return known | given


def answer(sample: Sample) -> str:
    """The completion: the last message's text, without any reasoning before it."""
    return str(sample["messages"][-1]["content"])


def reference(sample: Sample, field: str | None = None) -> str:
    """The reference answer as text; of an object the named field, else its ``text`` or ``answer``.

    Numbers are written out, without an exponent; true and false as in JSON. Raises ValueError for what is no text.
    """
    value = sample.get("reference_answer")
    if isinstance(value, dict):
        names = [field] if field else ["text", "answer"]
        found = [value[name] for name in names if name in value]
        if not found:
            raise ValueError(f"reference_answer has no field {' or '.join(names)}; reward.options.field names another")
        value = found[0]
    if value is None:
        raise ValueError("this row has no reference_answer, which the grader compares with")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        text = format(Decimal(repr(value)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if not isinstance(value, str):
        raise ValueError(f"reference_answer: expected text or a number, found {type(value).__name__}")
    return value


def batch(score: Callable[[Sample], float], samples: list[Sample]) -> list[dict[str, Any]]:
    """One entry a sample. A row that cannot be graded gets none, and its completion takes no part."""
    results = []
    for sample in samples:
        try:
            results.append({"id": sample["id"], "aggregate_reward_score": float(score(sample))})
        except ValueError as error:
            results.append({"id": sample["id"], "aggregate_reward_score": None, "error": str(error)})
    return results


def within(seconds: float, function: Callable[[], float]) -> float:
    """What ``function`` returns, or raises; 0 when it takes longer: an answer that hangs is a wrong one.

    A thread that hangs lives on until its batch is over, which ends the process.
    """
    found: list[float] = []
    problems: list[ValueError] = []

    def run() -> None:
        try:
            found.append(function())
        except ValueError as error:
            problems.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if problems:
        raise problems[0]
    return found[0] if found else 0.0


def without_fence(text: str, *languages: str) -> str:
    """The inside of a Markdown code block: the last in one of the languages, else the last; or else the whole text."""
    blocks = [(m[2].strip().lower(), m[3]) for m in FENCE.finditer(text)]
    chosen = [inside for language, inside in blocks if language in languages] or [inside for _, inside in blocks]
    return chosen[-1].strip("\n") if chosen else text.strip()
