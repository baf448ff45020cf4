"""Prompt files: what is read, what is refused by line and field, and the order of visits."""

import json
from pathlib import Path

import pytest

from grpo.errors import DataError
from grpo.prompts import load, take
from grpo.types import Prompt


class ByteTokenizer:
    """One token a byte; the template joins contents."""

    def apply_chat_template(self, conversation, **_options):
        return list("".join(m["content"] for m in conversation).encode())


GOOD = {"messages": [{"role": "user", "content": "hi"}], "reference_answer": {"a": 1}, "level": 3}


def read(tmp_path: Path, *rows, limit: int = 100) -> list[Prompt]:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return load(path, ByteTokenizer(), limit)


def test_a_row(tmp_path: Path) -> None:
    (prompt,) = read(tmp_path, GOOD)
    assert prompt.token_ids == (104, 105)
    assert prompt.reference_answer == {"a": 1}
    assert prompt.metadata == {"level": 3}


def test_blank_lines_are_skipped_and_line_numbers_stay_true(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl:3: not valid JSON"):
        read(tmp_path, GOOD, "", "{")


BAD = [
    ("[1]", "expected a JSON object"),
    ({}, "messages: required"),
    ({"messages": []}, "messages: required"),
    ({"messages": ["x"]}, r"messages\[0\]: expected an object"),
    ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\]\.role: 'robot'"),
    ({"messages": [{"role": "user", "content": 5}]}, r"messages\[0\]\.content: expected text, found int"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "last message is the assistant's"),
    ({"messages": [{"role": "user", "content": "x" * 101}]}, "101 tokens, more than data.max_prompt_tokens = 100"),
    ("[" * 100_000, "not valid JSON"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_bad_rows(tmp_path: Path, row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, GOOD, row)


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="25 unusable") as caught:
        read(tmp_path, *["{"] * 25)
    assert "and 5 more" in str(caught.value)


def test_missing_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "absent.jsonl", ByteTokenizer(), 10)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no rows"):
        load(tmp_path / "empty.jsonl", ByteTokenizer(), 10)


def prompts(n: int) -> list[Prompt]:
    return [Prompt(index=i, messages=(), token_ids=(i,)) for i in range(n)]


def test_each_epoch_visits_every_prompt_once_in_its_own_order() -> None:
    visits = [p.index for step in range(10) for p in take(prompts(12), step, 6, seed=0)]
    epochs = [visits[i : i + 12] for i in range(0, 60, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_across_epochs_drops_nothing() -> None:
    visits = [p.index for step in range(5) for p in take(prompts(5), step, 3, seed=1)]
    assert all(sorted(visits[i : i + 5]) == list(range(5)) for i in range(0, 15, 5))


def test_order_depends_on_seed_and_step_alone() -> None:
    assert take(prompts(50), 3, 8, seed=4) == take(prompts(50), 3, 8, seed=4)
    assert take(prompts(50), 3, 8, seed=4) != take(prompts(50), 3, 8, seed=5)
