"""Bytes of objects, one file each under a name of its own; written completely or not at all. Touches: disk."""

import hashlib
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PIECE = 2**20


@dataclass(frozen=True, slots=True)
class Written:
    """A new blob."""

    name: str
    bytes: int
    md5: str


class Blobs:
    """The directory of blobs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, pieces: Iterable[bytes]) -> Written:
        """Durable when it returns."""
        name, total, digest = uuid.uuid4().hex, 0, hashlib.md5(usedforsecurity=False)
        path = self.root / name
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for piece in pieces:
                    file.write(piece)
                    digest.update(piece)
                    total += len(piece)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Written(name, total, digest.hexdigest())

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Some bytes of one, or all."""
        with (self.root / name).open("rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def pieces(self, names: Iterable[str]) -> Iterable[bytes]:
        """Several, one behind the other."""
        for name in names:
            with (self.root / name).open("rb") as file:
                while piece := file.read(PIECE):
                    yield piece

    def remove(self, name: str | None) -> None:
        """Nothing where there is nothing."""
        if name is not None:
            (self.root / name).unlink(missing_ok=True)

    def sweep(self, known: set[str]) -> None:
        """Remove what nothing refers to: what a write left that broke off before its record was stored."""
        for path in self.root.iterdir():
            if path.name not in known:
                path.unlink()
