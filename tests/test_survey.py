"""What `grpo check-data` tells of a file; every number is read off the rows written here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.policy import load_tokenizer
from grpo.survey import survey


def row(content: str, **fields: object) -> str:
    return json.dumps({"messages": [{"role": "user", "content": content}], **fields})


def test_everything_is_counted(tmp_path: Path) -> None:
    lines = [
        row("one", reference_answer=1, level="easy"),
        "",
        row("four", reference_answer="x"),
        row(" one "),  # the same prompt, blanks aside
        '{"messages": []}',
        row("held"),
        "[1]",
        row("one"),
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "h.jsonl").write_text(row("held", reference_answer=2) + "\n")
    held, hashes = survey(tmp_path / "h.jsonl", None, None, set())
    assert (held.rows, held.lengths) == (1, {"least": 4, "median": 4, "p90": 4, "p99": 4, "most": 4})
    found, _ = survey(tmp_path / "t.jsonl", None, None, hashes)
    assert found.rows == 5
    assert found.duplicates == [(4, 1), (8, 1)], "each names the first"
    assert found.overlap == [6]
    assert found.without_reference == 3
    assert found.fields == {"level": 1}
    assert found.lengths == {"least": 3, "median": 4, "p90": 5, "p99": 5, "most": 5}
    assert [problem.split(":", 2)[1] for problem in found.problems] == ["5", "7"]
    assert "messages: required" in found.problems[0]


def test_tokens_are_the_models(tmp_path: Path, tiny_model: Path) -> None:
    """One token a byte; the template adds one for the user and one for the assistant."""
    path = tmp_path / "t.jsonl"
    path.write_text(row("four") + "\n" + row("eleven char") + "\n")
    tokenizer = load_tokenizer(tiny_model)
    found, _ = survey(path, tokenizer, None, set())
    assert (found.unit, found.lengths["least"], found.lengths["most"]) == ("tokens", 6, 13)
    found, _ = survey(path, tokenizer, 12, set())
    assert found.problems == [f"{path}:2: messages: 13 tokens, more than 12"]
    assert survey(path, tokenizer, 13, set())[0].problems == []


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "grpo", "check-data", *words], capture_output=True, text=True)


def test_the_command_says_what_is_wrong_and_ends_with_it(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(row("a") + "\n" + row("b") + "\n")
    bad.write_text("".join(f'{{"messages": {i}}}\n' for i in range(1000)))
    assert check(str(good)).returncode == 0
    done = check(str(bad))
    assert done.returncode == 1
    assert all(f"bad.jsonl:{i}: messages: required" in done.stdout for i in range(1, 1001)), "every line is named"
    overlap = json.loads(check(str(good), "--heldout", str(good), "--json").stdout)
    assert overlap["train"]["overlap"] == [1, 2]
    assert check(str(good), "--heldout", str(good)).returncode == 1
    missing = check(str(tmp_path / "none.jsonl"))
    assert (missing.returncode, "cannot be read" in missing.stderr) == (1, True)
    assert "name the model with --model" in check(str(good), "--max-prompt-tokens", "5").stderr


def test_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    """100,000 rows of 2 kB, 200 MB, within 120 MB more than an empty file takes."""
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(100_000):
            file.write(row(f"{i} " + "x" * 2000) + "\n")
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom grpo.survey import survey\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found, _ = survey(Path(sys.argv[1]), None, None, set())\n"
        "print(found.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 100_000
    assert kilobytes < 120_000


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_a_problem(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.jsonl").write_text(content)
    assert check(str(tmp_path / "t.jsonl")).returncode == 1
