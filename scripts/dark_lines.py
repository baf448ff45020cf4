"""Which lines of the project no CPU test runs: ``make dark-lines``.

    .venv/bin/python scripts/dark_lines.py [tests/test_x.py ...]

Runs the given tests under coverage, or both suites (more than an hour); notes in tests/lit_lines.json which lines ran,
and prints what is neither there nor explained in docs/dark-lines.md, as rows for its table. tests/test_dark_lines.py
compares the two without running anything: a new line fails it until tests that run it went through here, or a row says
why none can.
"""

import ast
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from coverage import CoverageData
from coverage.python import PythonParser

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "tests" / "lit_lines.json", ROOT / "docs" / "dark-lines.md"
DATA = ROOT / ".cache" / "coverage" / "data"
FULL_DISKS = (
    "tests/test_cli.py::test_a_full_disk_ends_in_one_message_and_the_run_goes_on_later",
    "tests/test_server_durability.py::test_g9_a_full_disk_is_named_and_passes",
)
"""Coverage cannot write there either, and says so where the test wants silence."""
SUITES = (
    [f"--deselect={test}" for test in FULL_DISKS],
    ["-m", "slow", "--deselect=tests/test_mutations.py"],
)
EVERYTHING = "the whole file"


class Line(NamedTuple):
    """A statement, named so that it stays the same when lines above it come and go."""

    number: int
    function: str
    text: str
    occurrence: int
    """Of this text in this function, from 0."""

    def digest(self) -> str:
        name = f"{self.function}\n{self.text}\n{self.occurrence}"
        return hashlib.sha256(name.encode()).hexdigest()[:8]


class Block(NamedTuple):
    """Statements of one function, one after the other, that no test runs."""

    file: str
    function: str
    first: str
    lines: int

    def row(self, reason: str = "") -> str:
        cells = f"`{self.file}`", f"`{self.function}`", f"`{_escaped(self.first)}`", str(self.lines), reason
        return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run, record, and say what is left to explain."""
    given = sys.argv[1:]
    coverage("erase")  # what an older source ran has other line numbers
    for words in [given] if given else SUITES:
        coverage("run", "-m", "pytest", "-q", *words)
    record()
    new, gone = compared()
    print("\n".join(["", *(block.row("why?") for block in new)]))
    print("\n".join(f"no longer dark, or gone: {block.row()}" for block in gone))
    print(f"{len(new)} blocks to explain in {PAGE.relative_to(ROOT)}, {len(gone)} rows to remove")
    return 1 if new or gone else 0


def coverage(*words: str) -> None:
    """Raises CalledProcessError where a test fails: what ran then proves nothing."""
    subprocess.run([sys.executable, "-m", "coverage", *words], cwd=ROOT, check=True)


def record() -> None:
    """Add the lines that ran to the record, and drop those that are no longer in the sources."""
    coverage("combine", "--quiet")
    data = CoverageData(str(DATA))
    data.read()
    before, after = lit(), {}
    for path in sources():
        file, ran = str(path.relative_to(ROOT)), set(data.lines(str(path)) or ())
        found = {
            line.digest() for line in lines_of(path) if line.number in ran or line.digest() in before.get(file, ())
        }
        after[file] = " ".join(sorted(found))
    RECORD.write_text(json.dumps(after, indent=0) + "\n")


def lit() -> dict[str, set[str]]:
    """Digests of the lines that ran, by file."""
    text = RECORD.read_text() if RECORD.exists() else "{}"
    return {file: set(digests.split()) for file, digests in json.loads(text).items()}


def compared() -> tuple[list[Block], list[Block]]:
    """Dark blocks without an explanation, and explanations without a dark block."""
    explained = explanations()
    whole = {block.file for block in explained if block.function == EVERYTHING}
    dark = [block for block in dark_blocks() if block.file not in whole]
    rows = [block for block in explained if block.function != EVERYTHING]
    return [block for block in dark if block not in explained], [row for row in rows if row not in dark]


def dark_blocks() -> Iterator[Block]:
    """Of all sources, by the record."""
    known = lit()
    for path in sources():
        file = str(path.relative_to(ROOT))
        block: list[Line] = []
        for line in [*lines_of(path), None]:
            is_dark = line is not None and line.digest() not in known.get(file, ())
            if block and (line is None or not is_dark or line.function != block[0].function):
                yield Block(file, block[0].function, block[0].text, len(block))
                block = []
            if line is not None and is_dark:
                block.append(line)


def explanations() -> dict[Block, str]:
    """Rows of the page's table of five columns: reason by block."""
    found = {}
    for row in PAGE.read_text().splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        if len(cells) == 5 and cells[0].startswith("`"):
            file, function, first, lines, reason = (cell.strip("`") if i < 3 else cell for i, cell in enumerate(cells))
            found[Block(file, function, first, int(lines))] = reason
    return found


def sources() -> list[Path]:
    """All modules of the packages."""
    return sorted([*(ROOT / "grpo").rglob("*.py"), *(ROOT / "kernels" / "grpo_kernels").glob("*.py")])


def lines_of(path: Path) -> list[Line]:
    """Statements that could run, without what the coverage settings exclude."""
    text = path.read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["report"]["exclude_also"]
    parser = PythonParser(text=text, filename=str(path), exclude="|".join(["pragma: no cover", *settings]))
    parser.parse_source()
    names, rows, seen = functions(text), text.splitlines(), Counter()
    found = []
    for number in sorted(parser.statements):
        key = names.get(number, "module"), rows[number - 1].strip()
        found.append(Line(number, *key, seen[key]))
        seen[key] += 1
    return found


def functions(text: str) -> dict[int, str]:
    """Name of the innermost function by line number; a method's with its class."""
    names: dict[int, str] = {}

    def visit(node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = outer
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{outer}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    names.update(dict.fromkeys(range(child.lineno + 1, (child.end_lineno or 0) + 1), inner))
            visit(child, inner)

    visit(ast.parse(text), "")
    return names


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
