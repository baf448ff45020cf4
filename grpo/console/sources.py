"""Where runs come from: directories, for ``grpo ui``. The server has its own source. Touches: disk (read)."""

from pathlib import Path
from typing import Any, Protocol

from grpo.console.run_view import RunView


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

    def place(self) -> dict[str, Any]:
        """To look at, nothing else."""
        return {"server": False}

    def runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        found = [(run_id, path, (path / "config.json").stat().st_mtime) for run_id, path in self._named().items()]
        found.sort(key=lambda one: -one[2])
        return [self._summary(run_id, path, int(at)) for run_id, path, at in found]

    def summary(self, run_id: str) -> dict[str, Any] | None:
        """Of one run."""
        path = self._named().get(run_id)
        return self._summary(run_id, path, int((path / "config.json").stat().st_mtime)) if path else None

    def run(self, run_id: str) -> RunView | None:
        """By the id that ``runs`` gave it."""
        path = self._named().get(run_id)
        return self._view(path) if path else None

    def _named(self) -> dict[str, Path]:
        """By their names; those that share one are numbered."""
        candidates = [path for place in self.places for path in (place, *sorted(place.iterdir()))]
        found = [path for path in dict.fromkeys(candidates) if (path / "config.json").is_file()]
        same = [[other for other in found if other.name == path.name] for path in found]
        names = [p.name if len(s) == 1 else f"{p.name}-{s.index(p) + 1}" for p, s in zip(found, same, strict=True)]
        return dict(zip(names, found, strict=True))

    def _summary(self, run_id: str, path: Path, created_at: int) -> dict[str, Any]:
        return self._view(path).summary() | {"id": run_id, "name": path.name, "created_at": created_at}

    def _view(self, path: Path) -> RunView:
        return self._views.setdefault(str(path), RunView(path, self.cache))
