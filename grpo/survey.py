"""What a prompt file holds: rows, problems, lengths, duplicates, overlap with another. Reads line by line.

Touches: disk (read).
"""

import hashlib
import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grpo.prompts import Tokenizer, tokenise
from grpo.rows import RowError, check_row, lines

SHARES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One file. A row's memory here is a hash and a length, whatever its size."""

    rows: int
    """Usable ones."""
    problems: list[str] = field(default_factory=list)
    """file:line: field: reason, for every other row."""
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    """(line, earlier line) with the same messages."""
    overlap: list[int] = field(default_factory=list)
    """Lines whose messages are in the other file, too."""
    lengths: dict[str, int] = field(default_factory=dict)
    """Percentiles, by name."""
    unit: str = "characters"
    without_reference: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    """Rows that have a field, beside messages and reference_answer."""


def survey(path: Path, tokenizer: Tokenizer | None, limit: int | None, other: set[bytes]) -> tuple[Survey, set[bytes]]:
    """Read a file; also the hashes of its rows' messages, to compare another with. Raises DataError.

    ``tokenizer``: counts tokens, else characters are counted. ``limit``: of tokens.
    """
    problems, duplicates, overlap = [], [], []
    seen: dict[bytes, int] = {}
    lengths, fields = array("q"), dict[str, int]()
    without = 0
    for number, line in lines(path):
        try:
            row = check_row(line)
            lengths.append(within(length(row, tokenizer), limit))
        except RowError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        digest = messages_digest(row["messages"])
        if digest in seen:
            duplicates.append((number, seen[digest]))
        seen.setdefault(digest, number)
        if digest in other:
            overlap.append(number)
        without += row.get("reference_answer") is None
        for name in set(row) - {"messages", "reference_answer"}:
            fields[name] = fields.get(name, 0) + 1
    result = Survey(
        rows=len(lengths),
        problems=problems,
        duplicates=duplicates,
        overlap=overlap,
        lengths=percentiles(lengths),
        unit="tokens" if tokenizer else "characters",
        without_reference=without,
        fields=dict(sorted(fields.items())),
    )
    return result, set(seen)


def within(found: int, limit: int | None) -> int:
    """``found``. Raises RowError where it is above the limit."""
    if limit is not None and found > limit:
        raise RowError(f"messages: {found} tokens, more than {limit}")
    return found


def length(row: dict[str, Any], tokenizer: Tokenizer | None) -> int:
    """Of a prompt, with its chat template; in characters of content where no tokenizer is given. Raises RowError."""
    if tokenizer is None:
        return sum(len(message["content"]) for message in row["messages"])
    return len(tokenise(row, tokenizer))


def messages_digest(messages: list[dict[str, Any]]) -> bytes:
    """16 bytes that tell equal prompts: roles and contents, blanks at the ends of a content aside."""
    plain = [(message["role"], message["content"].strip()) for message in messages]
    return hashlib.sha256(json.dumps(plain).encode()).digest()[:16]


def percentiles(values: "array[int]") -> dict[str, int]:
    """Smallest, median, 90 %, 99 % and largest; empty without values."""
    if not values:
        return {}
    found = np.quantile(np.frombuffer(values, dtype=np.int64), SHARES, method="higher")
    return dict(zip(("least", "median", "p90", "p99", "most"), (int(v) for v in found), strict=True))
