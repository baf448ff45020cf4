"""Prompt files in, tokenised prompts out, and the order in which a run visits them. Touches: disk (read).

A row is one JSON object: ``messages`` (required), ``reference_answer`` (any JSON value), and any other fields, which
the reward function receives as metadata (docs.aws.amazon.com/bedrock/latest/userguide/rft-prepare-data.html).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from grpo.errors import DataError
from grpo.types import Prompt

ROLES = ("system", "developer", "user", "assistant", "tool")
MOST_SHOWN = 20


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...


def load(path: Path, tokenizer: Tokenizer, max_prompt_tokens: int) -> list[Prompt]:
    """Every row of a JSONL file as a Prompt. Raises DataError that lists what is wrong, by line and field."""
    prompts: list[Prompt] = []
    problems: list[str] = []
    for number, line in _lines(path):
        try:
            prompts.append(_prompt(line, len(prompts), tokenizer, max_prompt_tokens))
        except _RowError as error:
            problems.append(f"  {path}:{number}: {error}")
    if problems:
        more = f"\n  and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
        raise DataError(f"{len(problems)} unusable row(s)\n" + "\n".join(problems[:MOST_SHOWN]) + more)
    if not prompts:
        raise DataError(f"{path}: no rows. Expected one JSON object with a 'messages' field per line.")
    return prompts


class _RowError(Exception):
    """One row's problem; collected by load."""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the [data] section.") from None


def _prompt(line: bytes, index: int, tokenizer: Tokenizer, max_prompt_tokens: int) -> Prompt:
    row = _parse(line)
    messages = _messages(row)
    try:
        token_ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:  # a template is the model author's program and may raise anything
        raise _RowError(f"messages: the model's chat template refuses them: {error}") from None
    if len(token_ids) > max_prompt_tokens:
        raise _RowError(
            f"messages: {len(token_ids)} tokens, more than data.max_prompt_tokens = {max_prompt_tokens}. "
            "Shorten the prompt or raise the limit"
        )
    metadata = {k: v for k, v in row.items() if k not in ("messages", "reference_answer")}
    return Prompt(
        index=index,
        messages=tuple(messages),
        token_ids=tuple(token_ids),
        reference_answer=row.get("reference_answer"),
        metadata=metadata,
    )


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _RowError(f"not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise _RowError(f"expected a JSON object, found {type(row).__name__}")
    return row


def _messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _RowError("messages: required, a non-empty list of {role, content} objects")
    for position, message in enumerate(messages):
        _check_message(message, f"messages[{position}]")
    if messages[-1]["role"] == "assistant":
        raise _RowError("messages: the last message is the assistant's; a prompt ends before the answer")
    return messages


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise _RowError(f"{where}: expected an object, found {type(message).__name__}")
    if message.get("role") not in ROLES:
        raise _RowError(f"{where}.role: {message.get('role')!r} is not one of {', '.join(ROLES)}")
    if not isinstance(message.get("content"), str):
        raise _RowError(f"{where}.content: expected text, found {type(message.get('content')).__name__}")


def take(prompts: Sequence[Prompt], step: int, count: int, seed: int) -> list[Prompt]:
    """The prompts of step ``step`` (from 0): epoch after epoch, each in its own seeded order.

    A pure function of its arguments, so a resumed run needs no cursor.
    """
    first = step * count
    chosen = []
    for position in range(first, first + count):
        epoch, offset = divmod(position, len(prompts))
        order = np.random.default_rng([seed, epoch]).permutation(len(prompts))
        chosen.append(prompts[order[offset]])
    return chosen
