"""Where runs come from: directories, for ``grpo ui``. The server has its own source. Touches: disk (read)."""

import contextlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from grpo.console.index import sweep
from grpo.console.run_view import RunView, written


class Source(Protocol):
    """Runs by their ids."""

    def place(self) -> dict[str, Any]:
        """What can be done here: ``server`` says whether there are jobs to start and stop."""

    def runs(self) -> list[dict[str, Any]]:
        """A summary of each, newest first, with ``id``, ``name`` and ``created_at``."""

    def summary(self, run_id: str) -> dict[str, Any] | None:
        """Of one run."""

    def run(self, run_id: str) -> RunView | None:
        """One of them."""


class Directories:
    """Run directories, and those that lie in the directories given."""

    def __init__(self, places: list[Path], cache: Path) -> None:
        """``cache``: where indices of completions may lie."""
        self.places, self.cache = [place.resolve() for place in places], cache
        self._views: dict[str, RunView] = {}
        sweep(cache)

    def place(self) -> dict[str, Any]:
        """To look at, nothing else."""
        return {"server": False}

    def runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        found = [self._summary(run_id, path) for run_id, path in self._named().items()]
        return sorted(found, key=lambda run: -run["created_at"])

    def summary(self, run_id: str) -> dict[str, Any] | None:
        """Of one run."""
        path = self._named().get(run_id)
        return self._summary(run_id, path) if path else None

    def run(self, run_id: str) -> RunView | None:
        """By the id that ``runs`` gave it."""
        path = self._named().get(run_id)
        return self._view(path) if path else None

    def _named(self) -> dict[str, Path]:
        """By their names; those that share one are numbered."""
        found: dict[str, Path] = {}
        for path in dict.fromkeys(self._candidates()):
            if written(path) is not None:
                numbered = (f"{path.name}-{k}" for k in count(2))
                found[path.name if path.name not in found else next(n for n in numbered if n not in found)] = path
        return found

    def _candidates(self) -> Iterator[Path]:
        for place in self.places:
            yield place
            with contextlib.suppress(OSError):  # one that is gone, or somebody else's
                yield from sorted(place.iterdir())

    def _summary(self, run_id: str, path: Path) -> dict[str, Any]:
        config = path / "config.json"
        created_at = int(config.stat().st_mtime) if config.exists() else 0
        return self._view(path).summary() | {"id": run_id, "name": path.name, "created_at": created_at}

    def _view(self, path: Path) -> RunView:
        return self._views.setdefault(str(path), RunView(path, self.cache))
