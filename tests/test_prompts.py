"""Prompt files: what is read, what is refused by line and field, and the order of visits."""

import json
import tracemalloc
from pathlib import Path

import pytest

from grpo.errors import DataError
from grpo.prompts import PromptFile, take
from grpo.types import Prompt


class ByteTokenizer:
    """One token a byte; the template joins contents."""

    def apply_chat_template(self, conversation, **_options):
        return list("".join(m["content"] for m in conversation).encode())


GOOD = {"messages": [{"role": "user", "content": "hi"}], "reference_answer": {"a": 1}, "level": 3}


def read(tmp_path: Path, *rows, limit: int = 100) -> list[Prompt]:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return PromptFile(path, ByteTokenizer(), limit)


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
        PromptFile(tmp_path / "absent.jsonl", ByteTokenizer(), 10)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no rows"):
        PromptFile(tmp_path / "empty.jsonl", ByteTokenizer(), 10)


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


def test_a_row_costs_its_offset_only(tmp_path: Path) -> None:
    """20,000 rows of 1 kB: 160 kB of offsets, an array that grows by an eighth, and one row at a time."""
    path = tmp_path / "large.jsonl"
    line = json.dumps(GOOD | {"padding": "x" * 1000}) + "\n"
    with path.open("w") as file:
        for _ in range(20_000):
            file.write(line)
    tracemalloc.start()
    rows = PromptFile(path, ByteTokenizer(), 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 20_000
    assert rows[19_999].index == 19_999
    assert peak < 800_000


def test_every_row_is_found_again(tmp_path: Path) -> None:
    """Of different lengths in bytes, with blank lines and another line's end between them, in any order."""
    texts = ["a", "größer", "日本語", "b" * 50, "c"]
    lines = [json.dumps({"messages": [{"role": "user", "content": t}]}, ensure_ascii=False).encode() for t in texts]
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\n" + lines[0] + b"\n\n" + lines[1] + b"\r\n" + lines[2] + b"\n  \n" + b"\n".join(lines[3:]))
    rows = PromptFile(path, ByteTokenizer(), 100)
    assert [rows[i].messages[0]["content"] for i in (3, 0, 4, 2, 1)] == [texts[i] for i in (3, 0, 4, 2, 1)]
    assert [row.index for row in rows] == list(range(5))


def test_a_file_that_changes_meanwhile_is_not_read_on(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(GOOD) + "\n")
    rows = PromptFile(path, ByteTokenizer(), 100)
    assert rows[0] == rows[-1] == rows[0:1][0]
    with pytest.raises(IndexError):
        rows[1]
    path.write_text(json.dumps(GOOD | {"level": 4}) + "\n\n")
    with pytest.raises(DataError, match="changed while the run uses it"):
        rows[0]
    path.unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        rows[0]


def test_openai_forms_of_a_row(tmp_path: Path) -> None:
    """Parts as responses name them, tools for the template, a turn that only calls tools."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    messages = [
        {"role": "developer", "content": [{"type": "input_text", "text": "be "}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "3"},
    ]
    seen = {}

    class Recording(ByteTokenizer):
        def apply_chat_template(self, conversation, **options):
            seen.update(options)
            return super().apply_chat_template(conversation, **options)

    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": messages, "tools": [tool]}) + "\n")
    (prompt,) = PromptFile(path, Recording(), 100)
    assert bytes(prompt.token_ids) == b"be briefhi3"
    assert prompt.messages[2]["tool_calls"] == [call]
    assert seen["tools"] == [tool]
    assert prompt.metadata == {"tools": [tool]}


@pytest.mark.parametrize("tools", [None, []])
def test_a_row_without_tools_may_say_so(tmp_path: Path, tools) -> None:
    """As datasets do for a column that most rows leave empty."""
    assert len(read(tmp_path, GOOD | {"tools": tools})) == 1


@pytest.mark.parametrize("tools", ["f", {"type": "function"}, ["f"], 5])
def test_tools_that_are_no_list_of_objects(tmp_path: Path, tools) -> None:
    with pytest.raises(DataError, match="tools: expected a list of objects"):
        read(tmp_path, GOOD | {"tools": tools})
