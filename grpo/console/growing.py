"""A JSONL file that grows while it is read. Touches: disk (read).

Only what was appended is read again. A run that resumes may take lines back: what stands before the place that was read
to is then something else, and the file is read from its beginning.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

LAST_BYTES = 1 << 16


class Growing:
    """Reads on from where it read to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset, self._last = 0, b""

    def read(self) -> tuple[bool, Iterator[dict[str, Any]]]:
        """Whether all that was told before is void, and the records that are new. A line being written waits."""
        void = self._offset > 0 and not self._goes_on()
        if void:
            self._offset, self._last = 0, b""
        return void, self._rest()

    def _goes_on(self) -> bool:
        """Whether the line that was read last is still there. Not the inode's number: file systems use it again."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset - len(self._last))
                return file.read(len(self._last)) == self._last
        except FileNotFoundError:
            return False

    def _rest(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset, self._last = self._offset + len(line), line
                yield json.loads(line)


def last_records(path: Path, most: int) -> list[dict[str, Any]]:
    """The last complete lines of a JSONL file, oldest first, without reading what stands before them."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return []
    taken = min(size, LAST_BYTES)
    while True:
        with path.open("rb") as file:
            file.seek(size - taken)
            lines = file.read(taken).rpartition(b"\n")[0].split(b"\n")
        if taken == size or len(lines) > most:
            return [json.loads(line) for line in lines[-most:] if line]
        taken = min(size, 8 * taken)


def first_records(path: Path, most: int) -> list[dict[str, Any]]:
    """The first complete lines of a JSONL file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [json.loads(line) for line in islice(file, most) if line.endswith(b"\n")]
