"""A completion's tokens as text, with how probable each was. Touches: disk (the model's tokenizer.json, read)."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo.types import Completion

BROKEN = "\N{REPLACEMENT CHARACTER}"
LONGEST = 8
"""Tokens that may share a character of several bytes."""


def pieces(model: Path, completion: Completion) -> list[dict[str, Any]] | None:
    """Text, log-probability (nats) and whether the environment wrote it; None where the model has no tokenizer.json.

    Tokens that share a character are one piece, with the sum of their log-probabilities.
    """
    path = model / "tokenizer.json"
    if not path.is_file():
        return None
    tokenizer = _tokenizer(path, path.stat().st_mtime_ns)
    foreign = {place for start, end in completion.foreign for place in range(start, end)}
    return [
        {
            "text": text,
            "logprob": sum(completion.logprobs[start:end]),
            "tokens": end - start,
            "foreign": start in foreign,
        }
        for text, start, end in _cut(tokenizer, completion.token_ids)
    ]


@lru_cache(maxsize=4)
def _tokenizer(path: Path, mtime_ns: int) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def _cut(tokenizer: Any, ids: Seq[int]) -> Iterator[tuple[str, int, int]]:
    """Stretches of tokens whose text is whole characters. Decoded with what stands before: some decoders look there."""
    start = 0
    for end in range(1, len(ids) + 1):
        before = ids[max(0, start - LONGEST) : start]
        known = tokenizer.decode(list(before), skip_special_tokens=False)
        text = tokenizer.decode([*before, *ids[start:end]], skip_special_tokens=False)
        if text.endswith(BROKEN) and end - start < LONGEST and end < len(ids):
            continue
        yield text.removeprefix(known), start, end
        start = end
