"""Is this file one that a job can train on? Every bad line is named. Pure but for reading the file."""

from pathlib import Path

from grpo.rows import RowError, check_row
from grpo.server.errors import Invalid

MOST_SHOWN = 20
LONGEST_LINE = 10 * 2**20


def check(path: Path, name: str) -> int:
    """The number of prompts in a JSONL file. Raises Invalid that names the bad lines, by number and field."""
    problems: list[str] = []
    rows = bad = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            if len(line) > LONGEST_LINE:
                raise Invalid(f"line {number}: longer than {LONGEST_LINE} bytes", param="file", code="invalid_jsonl")
            if not line.strip():
                continue
            rows += 1
            try:
                check_row(line)
            except RowError as error:
                bad += 1
                if len(problems) < MOST_SHOWN:
                    problems.append(f"line {number}: {error}")
    if bad:
        more = f"; and {bad - MOST_SHOWN} more" if bad > MOST_SHOWN else ""
        raise Invalid(f"{bad} unusable line(s). {'; '.join(problems)}{more}", param="file", code="invalid_jsonl")
    if not rows:
        raise Invalid(
            f"{name}: no rows. Expected one JSON object with messages per line", param="file", code="invalid_jsonl"
        )
    return rows
