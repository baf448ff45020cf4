"""Prompt files in, tokenised prompts out, and the order in which a run visits them. Touches: disk (read).

A file is checked as a whole before anything slow starts. After that a row costs eight bytes of memory: it is read and
tokenised again when its turn comes, so that a file may be larger than the memory.
"""

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, overload

import numpy as np

from grpo.errors import DataError
from grpo.rows import RowError, check_row, places
from grpo.types import Prompt

MOST_SHOWN = 20
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...


class PromptFile(Sequence[Prompt]):
    """The rows of a JSONL file as prompts, each read when it is asked for."""

    def __init__(self, path: Path, tokenizer: Tokenizer, limit: int, template: Mapping[str, Any] = NO_OPTIONS) -> None:
        """``limit``: of a prompt's tokens; ``template``: options of the model's chat template.

        Raises DataError that lists what is wrong, by line and field.
        """
        self.path, self.tokenizer, self.template = path, tokenizer, template
        self._offsets = array("q")
        problems: list[str] = []
        for number, offset, line in places(path):
            try:
                check_length(self._read(len(self._offsets), line), limit)
            except RowError as error:
                problems.append(f"  {path}:{number}: {error}")
            self._offsets.append(offset)
        if problems:
            more = f"\n  and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
            raise DataError(f"{len(problems)} unusable row(s)\n" + "\n".join(problems[:MOST_SHOWN]) + more)
        if not self._offsets:
            raise DataError(f"{path}: no rows. Expected one JSON object with a 'messages' field per line.")
        self._state = state_of(path.stat())

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        """Raises DataError when the file is no longer the one that was checked."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        position = range(len(self))[index]
        try:
            with self.path.open("rb") as file:
                if state_of(os.fstat(file.fileno())) != self._state:
                    raise DataError(f"{self.path}: changed while the run uses it. Start the run again")
                file.seek(self._offsets[position])
                return self._read(position, file.readline())
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more ({error.strerror})") from None

    def _read(self, index: int, line: bytes) -> Prompt:
        row = check_row(line)
        return Prompt(
            index=index,
            messages=tuple(row["messages"]),
            token_ids=tuple(tokenise(row, self.tokenizer, self.template)),
            reference_answer=row.get("reference_answer"),
            metadata={k: v for k, v in row.items() if k not in ("messages", "reference_answer")},
        )


def state_of(found: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file does."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def check_length(prompt: Prompt, limit: int) -> None:
    """Raises RowError for a prompt that is too long."""
    if len(prompt.token_ids) > limit:
        raise RowError(
            f"messages: {len(prompt.token_ids)} tokens, more than data.max_prompt_tokens = {limit}. "
            "Shorten the prompt or raise the limit"
        )


def tokenise(row: Mapping[str, Any], tokenizer: Tokenizer, template: Mapping[str, Any] = NO_OPTIONS) -> list[int]:
    """The chat template applied to a row's messages, ending where the assistant's turn begins. Raises RowError."""
    ids = render(row["messages"], row.get("tools"), tokenizer, template, tokenize=True, return_dict=False)
    return list(ids)


def render(messages: Any, tools: Any, tokenizer: Tokenizer, template: Mapping[str, Any], **options: Any) -> Any:
    """The chat template applied to messages, ending where the assistant's turn begins. Raises RowError."""
    given = {"tools": tools} if tools else {}
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **given, **options, **template)
    except Exception as error:  # a template is the model author's program and may raise anything
        raise RowError(f"messages: the model's chat template refuses them: {error}") from None


def draw(prompts: Sequence[Prompt], count: int, without: set[int], key: tuple[int, ...]) -> list[Prompt]:
    """Up to ``count`` prompts at random by ``key``, none whose index is in ``without``."""
    order = np.random.default_rng(key).permutation(len(prompts)).tolist()
    return [prompts[i] for i in islice((i for i in order if i not in without), max(0, count))]


def take(prompts: Sequence[Prompt], step: int, count: int, seed: int) -> list[Prompt]:
    """The prompts of step ``step`` (from 0): epoch after epoch, each in its own seeded order.

    A pure function of its arguments, so a resumed run needs no cursor.
    """
    return [prompts[i] for i in islice(visits(len(prompts), seed, step * count), count)]


def visits(total: int, seed: int, start: int) -> Iterator[int]:
    """Indices of prompts in the order of visits, from visit ``start`` on, without end."""
    epoch, offset = divmod(start, total)
    while True:
        yield from np.random.default_rng([seed, epoch]).permutation(total)[offset:].tolist()
        epoch, offset = epoch + 1, 0
