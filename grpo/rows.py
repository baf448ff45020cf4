"""One line of a prompt file in, a checked row out. Touches: disk (read).

A row is one JSON object: ``messages`` (required), ``reference_answer`` (any JSON value), ``tools`` (for the chat
template), and any other fields, which the reward function receives as metadata. That is Bedrock's form
(docs.aws.amazon.com/bedrock/latest/userguide/rft-prepare-data.html) and OpenAI's
(developers.openai.com/api/docs/guides/reinforcement-fine-tuning), where a grader calls them ``item``.
"""

import json
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpo.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXT_PARTS = ("text", "input_text", "output_text")


class RowError(Exception):
    """One row's problem: field and reason."""


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that is not blank. Raises DataError."""
    for number, _, line in places(path):
        yield number, line


def places(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset in bytes, line) of every line that is not blank. Raises DataError."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, offset, line
                offset += len(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the [data] section.") from None


def check_row(line: bytes) -> dict[str, Any]:
    """The row on a line, with every message's content as text. Raises RowError."""
    row = _parse(line)
    row["messages"] = _messages(row)
    tools = row.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("tools: expected a list of objects")
    return row


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise RowError(f"expected a JSON object, found {type(row).__name__}")
    return row


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")


def _messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("messages: required, a non-empty list of {role, content} objects")
    messages = [check_message(message, f"messages[{position}]") for position, message in enumerate(messages)]
    if messages[-1]["role"] == "assistant":
        raise RowError("messages: the last message is the assistant's; a prompt ends before the answer")
    return messages


def check_message(message: Any, where: str, roles: tuple[str, ...] = ROLES) -> dict[str, Any]:
    """A message with its content as text. Raises RowError that begins with ``where``."""
    if not isinstance(message, dict):
        raise RowError(f"{where}: expected an object, found {type(message).__name__}")
    if message.get("role") not in roles:
        raise RowError(f"{where}.role: {reprlib.repr(message.get('role'))} is not one of {', '.join(roles)}")
    content = message.get("content")
    if content is None and message["role"] == "assistant" and message.get("tool_calls"):
        content = ""  # a turn that only calls tools
    return message | {"content": _text(content, f"{where}.content")}


def _text(content: Any, where: str) -> str:
    """Plain text, or the text of a list of {type, text} parts, as chat completions or responses name them."""
    parts = content if isinstance(content, list) and content else [{"type": "text", "text": content}]
    for position, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") not in TEXT_PARTS or not isinstance(part.get("text"), str):
            at = f"{where}[{position}]" if parts is content else where
            raise RowError(f"{at}: expected text, found {type(part if parts is content else content).__name__}")
    text = "".join(part["text"] for part in parts)
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise RowError(f"{where}: half of a surrogate pair, which is no character")
    return text
