"""Every completion of a run in one table, so that a page of a million rows is read in milliseconds. Touches: disk.

A run's own files stay the truth: the index is made from them, step by step, and may be deleted at any time.
"""

import sqlite3
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    id INTEGER PRIMARY KEY, step INTEGER, place INTEGER, member INTEGER, prompt INTEGER, reward REAL, advantage REAL,
    tokens INTEGER, finish TEXT, error TEXT, question TEXT, text TEXT);
CREATE INDEX IF NOT EXISTS by_reward ON completions (reward);
CREATE INDEX IF NOT EXISTS by_prompt ON completions (prompt);
CREATE TABLE IF NOT EXISTS steps (step INTEGER PRIMARY KEY, first INTEGER, stamp TEXT);
CREATE TABLE IF NOT EXISTS told (name TEXT PRIMARY KEY, value TEXT);
"""
COLUMNS = "id, step, place, member, prompt, reward, advantage, tokens, finish, error, question, text"
ORDERS = {"newest": "id DESC", "oldest": "id", "best": "reward DESC, id DESC", "worst": "reward NULLS LAST, id DESC"}
BATCH_STEPS = 50
REMEMBERED = 8
QUESTION = 300
"""Characters of the prompt that are kept."""

Read = Callable[[int], list[tuple[Any, ...]] | None]
"""The rows of a step: all columns but ``id``; None where there is no such step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which completions; None: whatever."""

    text: str | None = None
    """They contain this; letters of ASCII are taken for the same, large or small."""
    least: float | None = None
    most: float | None = None
    first: int | None = None
    last: int | None = None
    """Steps, from 0, both included."""
    prompt: int | None = None
    cut: bool = False
    failed: bool = False
    """Could not be scored."""

    def sql(self) -> tuple[str, list[Any]]:
        """As a condition with its values."""
        escaped = (self.text or "").replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        terms: list[tuple[str, Any]] = [
            ("text LIKE ? ESCAPE '\\'", f"%{escaped}%" if self.text else None),
            ("reward >= ?", self.least),
            ("reward <= ?", self.most),
            ("step >= ?", self.first),
            ("step <= ?", self.last),
            ("prompt = ?", self.prompt),
            ("finish = ?", "length" if self.cut else None),
            ("(reward IS NULL) = ?", 1 if self.failed else None),
        ]
        known = [(term, value) for term, value in terms if value is not None]
        return " AND ".join(term for term, _ in known) or "1", [value for _, value in known]


class Index:
    """The completions of one run, in a file of its own."""

    def __init__(self, path: Path, metrics: Path, stamp: Callable[[int], str | None], read: Read) -> None:
        """``metrics``: a file that a run which takes steps back writes anew; ``stamp``: of a step's file, as it is."""
        self.path, self.metrics, self.stamp, self.read = path, metrics, stamp, read
        self._lock = threading.Lock()
        self._found: dict[tuple[Filter, str], tuple[int, array[int]]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection:
            connection.executescript("PRAGMA journal_mode=WAL;" + SCHEMA)

    def refresh(self, steps: int, patience_s: float) -> int:
        """Take in what is new of a run of so many steps, for about this long. Returns how many steps are in."""
        with self._lock, closing(self._connect()) as connection:
            self._take_back(connection, steps)
            done = _steps(connection)
            until = time.monotonic() + patience_s
            while done < steps:
                done = self._add(connection, done, min(steps, done + BATCH_STEPS))
                if time.monotonic() > until:
                    break
            return done

    def page(self, wanted: Filter, order: str, offset: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """How many there are, and those from ``offset`` on."""
        with closing(self._connect()) as connection:
            ids = self._ids(connection, wanted, order)
            chosen = ids[offset : offset + limit]
            marks = ",".join("?" * len(chosen))
            query = f"SELECT {COLUMNS} FROM completions WHERE id IN ({marks})"
            rows = {row["id"]: dict(row) for row in connection.execute(query, list(chosen))}
        return len(ids), [rows[one] for one in chosen if one in rows]

    def every(self, wanted: Filter) -> Iterator[dict[str, Any]]:
        """All of them, oldest first, without keeping them."""
        condition, values = wanted.sql()
        with closing(self._connect()) as connection:
            for row in connection.execute(f"SELECT {COLUMNS} FROM completions WHERE {condition} ORDER BY id", values):
                yield dict(row)

    def means(self, prompt: int) -> list[tuple[int, float | None]]:
        """The mean reward of one prompt in each step that drew it; None where none of it could be scored."""
        query = "SELECT step, avg(reward) FROM completions WHERE prompt = ? GROUP BY step ORDER BY step"
        with closing(self._connect()) as connection:
            return [(row[0], row[1]) for row in connection.execute(query, [prompt])]

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        connection.execute("PRAGMA synchronous=OFF")
        connection.row_factory = sqlite3.Row
        return connection

    def _take_back(self, connection: sqlite3.Connection, steps: int) -> None:
        """Forget steps that the run took back, or sampled anew."""
        identity = str(self.metrics.stat().st_ino) if self.metrics.exists() else ""
        told = dict(connection.execute("SELECT name, value FROM told").fetchall())
        first = steps
        if told.get("metrics") != identity:
            known = connection.execute("SELECT step, stamp FROM steps ORDER BY step").fetchall()
            first = next((row["step"] for row in known if self.stamp(row["step"]) != row["stamp"]), steps)
            first = min(first, steps)
        if _steps(connection) > first:
            row = connection.execute("SELECT first FROM steps WHERE step = ?", [first]).fetchone()
            connection.execute("BEGIN")
            connection.execute("DELETE FROM completions WHERE id >= ?", [row["first"]])
            connection.execute("DELETE FROM steps WHERE step >= ?", [first])
            connection.execute("COMMIT")
            self._found.clear()
        connection.execute("INSERT OR REPLACE INTO told VALUES ('metrics', ?)", [identity])

    def _add(self, connection: sqlite3.Connection, first: int, end: int) -> int:
        newest = connection.execute("SELECT max(id) FROM completions").fetchone()[0] or 0
        connection.execute("BEGIN")
        for step in range(first, end):
            rows = self.read(step) or []
            values = [(newest + k + 1, *row) for k, row in enumerate(rows)]
            connection.executemany(f"INSERT INTO completions VALUES ({','.join('?' * 12)})", values)
            connection.execute("INSERT INTO steps VALUES (?, ?, ?)", [step, newest + 1, self.stamp(step)])
            newest += len(rows)
        connection.execute("COMMIT")
        return end

    def _ids(self, connection: sqlite3.Connection, wanted: Filter, order: str) -> Seq[int]:
        """Of all rows that are wanted, in order; what was found before is kept, and only new rows are looked at."""
        newest = connection.execute("SELECT max(id) FROM completions").fetchone()[0] or 0
        if wanted == Filter() and order == "newest":
            return range(newest, 0, -1)
        upto, known = self._found.get((wanted, order), (0, array("q")))
        if upto == newest:
            return known
        if order not in ("newest", "oldest"):
            upto, known = 0, array("q")
        condition, values = wanted.sql()
        query = f"SELECT id FROM completions WHERE id > ? AND {condition} ORDER BY {ORDERS[order]}"
        new = array("q", (row[0] for row in connection.execute(query, [upto, *values])))
        found = known + new if order == "oldest" else new + known
        self._found[wanted, order] = newest, found
        while len(self._found) > REMEMBERED:
            self._found.pop(next(iter(self._found)))
        return found


def _steps(connection: sqlite3.Connection) -> int:
    """How many are in; there is none missing before the last."""
    last = connection.execute("SELECT max(step) FROM steps").fetchone()[0]
    return 0 if last is None else int(last) + 1
