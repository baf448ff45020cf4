"""What is taken away from the pages: completions as JSONL or CSV, an adapter as an archive. Touches: disk."""

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from grpo.console.index import COLUMNS
from grpo.errors import CheckpointError
from grpo.manifest import complete, verify

Rows = Iterator[list[dict[str, Any]]]
"""Some at a time."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for one (owasp.org/www-community/attacks/CSV_Injection); such texts get a ' before them."""
CHUNK = 1 << 20
NAMES = COLUMNS.split(", ")


def jsonl(rows: Rows) -> Iterator[str]:
    """One object a line; steps count from 1, as on the pages."""
    for some in rows:
        yield "".join(json.dumps({**row, "step": row["step"] + 1}, ensure_ascii=False) + "\n" for row in some)


def as_csv(rows: Rows) -> Iterator[str]:
    """With a line of names. A text that a spreadsheet would run is marked."""
    yield ",".join(NAMES) + "\r\n"
    for some in rows:
        place = io.StringIO()
        writer = csv.DictWriter(place, NAMES)
        writer.writerows({name: _inert(value) for name, value in {**r, "step": r["step"] + 1}.items()} for r in some)
        yield place.getvalue()


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


FORMS: dict[str, tuple[str, Callable[[Rows], Iterator[str]]]] = {
    "jsonl": ("application/x-ndjson", jsonl),
    "csv": ("text/csv; charset=utf-8", as_csv),
}


def adapter(run: Path, step: int | None) -> tuple[str, Iterator[bytes]]:
    """Name and bytes of an archive with a checkpoint's adapter, whose digests were checked. Raises CheckpointError.

    ``step``: of which checkpoint; None: the one the run chose, or before its end the last.
    """
    there = {checkpoint.step: checkpoint for checkpoint in complete(run)}
    wanted = _chosen(run) if step is None else step
    wanted = max(there, default=0) if wanted is None else wanted
    if wanted not in there:
        raise CheckpointError(f"{run}: no checkpoint of step {wanted} is kept")
    verify(there[wanted])
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is read after this returns
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(there[wanted].path.glob("adapter_*")):
            archive.write(path, path.name)
    file.seek(0)
    return f"adapter_step_{wanted}", _chunks(file)


def _chosen(run: Path) -> int | None:
    path = run / "result.json"
    chosen = json.loads(path.read_text())["adapter"] if path.exists() else None
    return int(chosen.rpartition("_")[2]) if chosen else None


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk
