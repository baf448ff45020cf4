"""The numbers of a run's metrics.jsonl, kept while the run goes on, and thinned for a picture. Touches: disk (read)."""

import math
import threading
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grpo.console.growing import Growing

Floats = NDArray[np.float64]


class Table:
    """One column a metric, one row a step."""

    def __init__(self, path: Path) -> None:
        self._lines = Growing(path)
        self._lock = threading.Lock()
        self._steps: list[int] = []
        self._columns: dict[str, array[float]] = {}

    def refresh(self) -> int:
        """Read what is new. Returns the number of rows."""
        with self._lock:
            void, records = self._lines.read()
            if void:
                self._steps, self._columns = [], {}
            for record in records:
                self._add(record)
            return len(self._steps)

    @property
    def names(self) -> list[str]:
        """Metrics that any step has."""
        return list(self._columns)

    def column(self, name: str) -> list[float]:
        """One metric of all steps; nan where a step has none."""
        with self._lock:
            return list(self._columns.get(name, ()))

    def thinned(self, names: Iterable[str], first: int, last: int, most: int) -> dict[str, Any]:
        """Of steps ``first`` to ``last``: at most ``most`` points, each the mean, least and greatest of its steps.

        {"step": [...], "columns": {name: {"mean": [...], "low": [...], "high": [...]}}}; None where no step has one.
        """
        with self._lock:
            steps = np.array(self._steps, dtype=np.int64)
            rows = np.flatnonzero((steps >= first) & (steps <= last))
            columns = {name: np.array(self._columns[name])[rows] for name in names if name in self._columns}
        edges = np.unique(np.linspace(0, len(rows), min(most, len(rows)) + 1).astype(np.int64))
        return {
            "step": steps[rows[edges[1:] - 1]].tolist(),
            "columns": {name: _spans(column, edges[:-1]) for name, column in columns.items()},
        }

    def _add(self, record: dict[str, Any]) -> None:
        values = numbers(record)
        for name in values:
            if name not in self._columns:
                self._columns[name] = array("d", [math.nan] * len(self._steps))
        self._steps.append(record["step"])
        for name, column in self._columns.items():
            column.append(values.get(name, math.nan))


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """What can be drawn of a metrics line."""
    values = {name: float(v) for name, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return values | {f"part:{name}": float(value) for name, value in (record.get("reward_parts") or {}).items()}


def _spans(column: Floats, starts: NDArray[np.int64]) -> dict[str, list[float | None]]:
    """Mean, least and greatest from each start to the next one, of what is finite."""
    if not starts.size:
        return {"mean": [], "low": [], "high": []}
    finite = np.isfinite(column)
    counts = np.add.reduceat(finite, starts, dtype=np.int64)
    sums = np.add.reduceat(np.where(finite, column, 0.0), starts)
    low = np.minimum.reduceat(np.where(finite, column, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, column, -np.inf), starts)
    known = counts > 0
    found = {"mean": sums / np.maximum(counts, 1), "low": low, "high": high}
    return {
        name: [float(value) if there else None for value, there in zip(values, known, strict=True)]
        for name, values in found.items()
    }
