"""Datasets become prompt files: every form the library reads from a disk, and what is wrong with one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from grpo.conversion import Columns, open_source, rows, write
from grpo.errors import DataError

EXAMPLES = [{"question": f"{n} + 1?", "answer": str(n + 1), "level": n} for n in range(5)]
QUESTIONS = Columns(prompt="question", reference="answer", keep=("level",), system="Add.")
FIRST = {
    "level": 0,
    "messages": [{"role": "system", "content": "Add."}, {"role": "user", "content": "0 + 1?"}],
    "reference_answer": "1",
}


def stored(tmp_path: Path, form: str) -> str:
    found = Dataset.from_list(EXAMPLES)
    path = tmp_path / f"source.{form}"
    if form == "disk":
        found.save_to_disk(path)
    elif form == "splits":
        DatasetDict({"train": found, "test": found.select([0])}).save_to_disk(path)
    elif form == "directory":
        path.mkdir()
        found.to_parquet(path / "train.parquet")
    else:
        getattr(found, {"jsonl": "to_json"}.get(form, f"to_{form}"))(path)
    return str(path)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv", "disk", "splits", "directory"])
def test_every_form_gives_the_same_file(tmp_path: Path, form: str) -> None:
    lines = list(rows(open_source(stored(tmp_path, form), None, "train"), QUESTIONS, 0, None))
    assert len(lines) == 5
    first = json.loads(lines[0])
    if form == "csv":  # a table without types: a number stays one
        first["reference_answer"] = str(first["reference_answer"])
    assert first == FIRST


def test_part_of_a_dataset(tmp_path: Path) -> None:
    found = list(rows(EXAMPLES, QUESTIONS, 1, 2))
    assert [json.loads(line)["level"] for line in found] == [1, 2]


def test_whole_conversations(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    (line,) = rows([{"talk": talk}], Columns(messages="talk"), 0, None)
    assert json.loads(line) == {"messages": talk}


@pytest.mark.parametrize(
    ("examples", "columns", "message"),
    [
        (EXAMPLES, Columns(prompt="text"), "no column called 'text'; there are question, answer, level"),
        ([*EXAMPLES, {"question": 3}], Columns(prompt="question"), r"row 5: messages\[0\].content: expected text"),
        ([{"question": "x", "answer": b"1"}], Columns(prompt="question", reference="answer"), "row 0: .*bytes"),
        (
            [{"question": "x", "answer": float("nan")}],
            Columns(prompt="question", reference="answer"),
            "row 0: .*not JSON",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, examples, columns, message: str) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=message):
        write(rows(examples, columns, 0, None), out)
    assert list(tmp_path.iterdir()) == []


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split called 'dev'; it has train, test"):
        open_source(stored(tmp_path, "splits"), None, "dev")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"x\.txt: expected one of \.jsonl"):
        open_source(str(tmp_path / "x.txt"), None, "train")


def test_the_command(tmp_path: Path) -> None:
    """A file that exists is kept."""
    out = tmp_path / "prompts.jsonl"
    words = [sys.executable, "-m", "grpo", "import-data", stored(tmp_path, "jsonl"), str(out)]
    words += ["--prompt", "question", "--reference", "answer", "--keep", "level", "--system", "Add.", "--rows", "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"{out}: 3 rows\n"
    assert json.loads(out.read_text().splitlines()[0]) == FIRST
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    neither = subprocess.run([*words[:6]], capture_output=True, text=True, check=False)
    assert "name one of --prompt and --messages" in neither.stderr
