"""GSM8K as prompt files, from a directory of its own form; and the rewards in GSM8K's own form."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grpo.reward_host import load

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for split, count in (("train", 20), ("test", 6)):
        rows = [{"question": f"{split} {i}?", "answer": f"It is so.\n#### {i}"} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def written(source: Path, out: Path, *words: str) -> dict[str, list[dict[str, Any]]]:
    command = [sys.executable, "scripts/gsm8k.py", "--source", str(source), "--out", str(out), *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {
        name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "heldout", "test")
    }


def asked(rows: list[dict[str, Any]]) -> set[str]:
    return {row["messages"][-1]["content"] for row in rows}


def test_splits_do_not_overlap(source: Path, tmp_path: Path) -> None:
    found = written(source, tmp_path / "out", "--heldout", "4", "--train", "10", "--test", "5")
    assert {name: len(rows) for name, rows in found.items()} == {"train": 10, "heldout": 4, "test": 5}
    assert not asked(found["train"]) & asked(found["heldout"])
    assert all(text.startswith("test") for text in asked(found["test"]))
    assert "\\boxed" in found["train"][0]["messages"][0]["content"]


def test_a_test_set_from_the_training_rows(source: Path, tmp_path: Path) -> None:
    found = written(source, tmp_path / "out", "--heldout", "2", "--test-from-train", "3", "--form", "hashes")
    assert {name: len(rows) for name, rows in found.items()} == {"train": 15, "heldout": 2, "test": 3}
    assert len(asked(found["train"]) | asked(found["heldout"]) | asked(found["test"])) == 20
    assert all(text.startswith("train") for text in asked(found["test"]))
    (message,) = found["test"][0]["messages"]
    assert message["content"].endswith('? Let\'s think step by step and output the final answer after "####".')


def test_rows_in_their_order(source: Path, tmp_path: Path) -> None:
    found = written(source, tmp_path / "out", "--heldout", "2", "--train", "5", "--in-order")
    assert [row["messages"][-1]["content"] for row in found["train"]] == [f"train {i}?" for i in range(5)]
    assert [row["messages"][-1]["content"] for row in found["heldout"]] == ["train 5?", "train 6?"]


@pytest.mark.parametrize(
    ("answer", "strict", "lenient"),
    [
        ("3 + 4 = 7\n#### 7", 1.0, 1.0),
        ("#### $1,007.0", 0.0, 0.0),
        ("So 7 it is.", 0.0, 1.0),
        ("#### 7\nor rather 8", 1.0, 0.0),
        ("#### 8 #### 7", 1.0, 1.0),
        ("7.00", 0.0, 1.0),
        ("-7", 0.0, 0.0),
        ("none", 0.0, 0.0),
        ("#### ,,,", 0.0, 0.0),
    ],
)
def test_rewards_in_gsm8ks_form(answer: str, strict: float, lenient: float) -> None:
    sample = {"id": "1", "messages": [{"content": answer}], "reference_answer": {"text": "1 and 6 are 7\n#### 7"}}
    for name, expected in (("strict", strict), ("lenient", lenient)):
        handler = load(f"configs/bench/rewards/{name}.py", "lambda_handler")
        assert handler([sample], None)[0]["aggregate_reward_score"] == expected, name


def test_word_problems_are_right_and_told_once() -> None:
    """Each solution's own sum, computed anew."""
    seen: set[str] = set()
    for name in ("train", "heldout", "test"):
        for line in (ROOT / "configs" / "bench" / "words" / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            sum_, _, answer = row["reference_answer"].partition("\n#### ")
            a, sign, b, _, result = sum_.split()
            assert int(answer) == int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b)) > 0
            question = row["messages"][0]["content"]
            assert f" {a} " in question
            assert re.search(rf" {b}[ .]", question)
            assert question not in seen
            seen.add(question)


def test_word_problems_are_what_their_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "scripts/make_word_problems.py", str(tmp_path)], cwd=ROOT, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heldout.jsonl", "test.jsonl", "train.jsonl"]
    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (ROOT / "configs" / "bench" / "words" / path.name).read_bytes()
