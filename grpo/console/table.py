"""The numbers of a run's metrics.jsonl, kept while the run goes on, and thinned for a picture. Touches: disk (read).

Only what was appended is read again. A run that resumes may take lines back: the file is then another one, and is read
from its beginning.
"""

import json
import math
import threading
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Table:
    """One column a metric, one row a step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._steps: list[int] = []
        self._columns: dict[str, list[float]] = {}

    def refresh(self) -> int:
        """Read what is new. Returns the number of rows."""
        with self._lock:
            try:
                found = self.path.stat()
            except FileNotFoundError:
                self._forget()
                return 0
            if (found.st_dev, found.st_ino) != self._identity or found.st_size < self._offset:
                self._forget()
                self._identity = (found.st_dev, found.st_ino)
            with self.path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    self._offset += len(line)
                    self._add(json.loads(line))
            return self.rows

    @property
    def rows(self) -> int:
        """Steps."""
        return len(self._steps)

    @property
    def names(self) -> list[str]:
        """Metrics that any step has."""
        return list(self._columns)

    def last(self, name: str) -> float | None:
        """The newest value of a metric."""
        column = self._columns.get(name)
        return _plain(column[-1]) if column else None

    def thinned(self, names: Iterable[str], first: int, last: int, most: int) -> dict[str, Any]:
        """Of steps ``first`` to ``last``: at most ``most`` points, each the mean, least and greatest of its steps.

        {"step": [...], "columns": {name: {"mean": [...], "low": [...], "high": [...]}}}; None where no step has one.
        """
        with self._lock:
            steps = np.array(self._steps, dtype=np.int64)
            rows = np.flatnonzero((steps >= first) & (steps <= last))
            columns = {name: np.array(self._columns[name])[rows] for name in names if name in self._columns}
        edges = np.unique(np.linspace(0, len(rows), min(most, len(rows)) + 1).astype(np.int64))
        spans = list(pairwise(edges))
        return {
            "step": [int(steps[rows[end - 1]]) for _, end in spans],
            "columns": {name: _spans(column, spans) for name, column in columns.items()},
        }

    def _forget(self) -> None:
        self._identity, self._offset = None, 0
        self._steps, self._columns = [], {}

    def _add(self, record: dict[str, Any]) -> None:
        values = {name: float(value) for name, value in record.items() if _is_number(value)}
        values |= {f"part:{name}": float(value) for name, value in (record.get("reward_parts") or {}).items()}
        for name in values:
            self._columns.setdefault(name, [math.nan] * self.rows)
        self._steps.append(record["step"])
        for name, column in self._columns.items():
            column.append(values.get(name, math.nan))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spans(column: Floats, spans: list[tuple[int, int]]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {"mean": [], "low": [], "high": []}
    for start, end in spans:
        part = column[start:end]
        part = part[np.isfinite(part)]
        for name, reduce in (("mean", np.mean), ("low", np.min), ("high", np.max)):
            found[name].append(float(reduce(part)) if part.size else None)
    return found


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
