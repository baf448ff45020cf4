"""Which checkpoints of a run are complete, and whether their bytes are still what was written. Touches: disk (read)."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.errors import CheckpointError

NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One complete checkpoint on disk."""

    path: Path
    step: int
    """Updates made."""


def complete(run: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, oldest first; one without a manifest does not count."""
    paths = sorted((run / "checkpoints").glob("step_??????"))
    return [Checkpoint(path, int(path.name.removeprefix("step_"))) for path in paths if (path / NAME).is_file()]


def verify(checkpoint: Checkpoint) -> dict[str, Any]:
    """The manifest, after every file matched its digest. Raises CheckpointError."""
    try:
        manifest: dict[str, Any] = json.loads((checkpoint.path / NAME).read_text())
        damaged = [name for name, found in manifest["files"].items() if digest(checkpoint.path / name) != found]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint.path}: damaged ({error}). Remove it to resume from an older one") from None
    if damaged:
        raise CheckpointError(
            f"{checkpoint.path}: {', '.join(damaged)} changed since it was written. Remove it to resume"
        )
    return manifest


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
