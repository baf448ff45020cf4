"""A JSONL file that grows while it is read. Touches: disk (read).

Only what was appended is read again. A run that resumes may take lines back: the file is then another one, and is read
from its beginning.
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
        self._identity: tuple[int, int] | None = None
        self._offset = 0

    def read(self) -> tuple[bool, Iterator[dict[str, Any]]]:
        """Whether all that was told before is void, and the records that are new. A line being written waits."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            void, self._identity, self._offset = self._identity is not None, None, 0
            return void, iter(())
        void = (found.st_dev, found.st_ino) != self._identity or found.st_size < self._offset
        if void:
            self._identity, self._offset = (found.st_dev, found.st_ino), 0
        return void, self._rest()

    def _rest(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
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
