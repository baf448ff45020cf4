"""Where runs come from: directories, for ``grpo ui``. The server has its own source. Touches: disk (read)."""

from pathlib import Path
from typing import Any, Protocol

from grpo.console.run_view import RunView


class Source(Protocol):
    """Runs by their ids."""

    def runs(self) -> list[dict[str, Any]]:
        """A summary of each, newest first, with ``id``, ``name`` and ``created_at``."""

    def run(self, run_id: str) -> RunView | None:
        """One of them."""


class Directories:
    """Run directories, and those that lie in the directories given."""

    def __init__(self, places: list[Path]) -> None:
        self.places = [place.resolve() for place in places]
        self._views: dict[str, RunView] = {}

    def runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        found = [(path, (path / "config.json").stat().st_mtime) for path in self._directories()]
        found.sort(key=lambda pair: -pair[1])
        return [
            self._view(path).summary() | {"id": self._id(path), "name": path.name, "created_at": int(at)}
            for path, at in found
        ]

    def run(self, run_id: str) -> RunView | None:
        """By the id that ``runs`` gave it."""
        return next((self._view(path) for path in self._directories() if self._id(path) == run_id), None)

    def _directories(self) -> list[Path]:
        candidates = [path for place in self.places for path in (place, *sorted(place.iterdir()))]
        return [path for path in dict.fromkeys(candidates) if (path / "config.json").is_file()]

    def _id(self, path: Path) -> str:
        same = [other for other in self._directories() if other.name == path.name]
        return path.name if len(same) == 1 else f"{path.name}-{same.index(path) + 1}"

    def _view(self, path: Path) -> RunView:
        return self._views.setdefault(str(path), RunView(path))
