"""README and docs are true: their commands exist, their files exist, their metrics are written."""

import json
import re
import shlex
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every line of every ```sh block."""
    blocks = (b for page in PAGES for b in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL))
    lines = (line.split("  #")[0].strip() for block in blocks for line in block.splitlines())
    return sorted({line for line in lines if line and not line.startswith("#")})


def test_there_are_commands() -> None:
    assert "make demo" in commands()
    assert "make test" in commands()


@pytest.mark.parametrize("command", commands())
def test_every_command_exists(command: str) -> None:
    """make: a dry run finds the target. grpo: the options parse up to --help. accelerate: the module exists."""
    words = shlex.split(command)
    if words[0] == "make":
        result = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    elif words[0].endswith("grpo"):
        flags = [w for w in words[2:] if w.startswith("-")]
        named = words[1:3] if words[1] == "bench" else words[1:2]
        result = subprocess.run([sys.executable, "-m", "grpo", *named, "--help"], capture_output=True, text=True)
        unknown = [f for f in flags if f not in result.stdout]
        assert unknown == []
    elif words[0].endswith("accelerate"):
        assert words[words.index("-m") + 1] == "grpo.train"
        return
    else:
        pytest.fail(f"a documented command nobody checks: {command}")
    assert result.returncode == 0, result.stderr


def test_linked_files_exist() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_every_metric_is_documented(tiny_run, tmp_path: Path) -> None:
    import runs

    runs.train(tiny_run("metrics", steps=3))
    text = (ROOT / "docs" / "metrics.md").read_text()
    names = {
        name for line in (tmp_path / "metrics" / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)
    }
    assert {n for n in names - {"step"} if n not in text and not n.startswith("heldout_")} == set()


def test_docs_name_no_foreign_paths() -> None:
    assert [p.name for p in PAGES if re.search(r"/(?:root|work|home)/", p.read_text())] == []


def test_the_api_page_is_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, "scripts/api_page.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run scripts/api_page.py\n{done.stderr}"


def test_every_complaint_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "pains.md").read_text()
    known = {
        name for path in ROOT.glob("tests/test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) == 26
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named or "cannot happen" in row, row
        assert set(named) <= known, set(named) - known


def cuda_lines() -> list[tuple[str, str]]:
    """(file, line without comment) of all code that mentions CUDA; docstrings are no code."""
    found = []
    for path in [*ROOT.glob("grpo/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        with path.open("rb") as file:
            tokens = list(tokenize.tokenize(file.readline))
        lines = path.read_text().splitlines()
        words = [t for t in tokens if t.type in (tokenize.NAME, tokenize.STRING) and '"""' not in t.string]
        rows = {word.start[0] for word in words if "cuda" in word.string}
        found += [(str(path.relative_to(ROOT)), lines[row - 1].split("  #")[0].strip()) for row in rows]
    return sorted(found)


def test_every_line_that_only_a_gpu_runs_is_listed() -> None:
    page = (ROOT / "docs" / "dark-lines.md").read_text()
    listed = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| ([^|]+) \|$", page, re.M)
    assert sorted((file, line) for file, line, _ in listed) == cuda_lines()
    assert all(len(reason.split()) >= 1 for *_, reason in listed)
