"""Every completion of a run in one table, so that a page of a million rows is read in milliseconds. Touches: disk.

A run's own files stay the truth: the index is made from them, step by step, and may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import secrets
import sqlite3
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import closing
from dataclasses import dataclass, replace
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
VERSION = 1
"""Of the schema."""
COLUMNS = "id, step, place, member, prompt, reward, advantage, tokens, finish, error, question, text"
ORDERS = {"newest": "id DESC", "oldest": "id", "best": "reward DESC, id DESC", "worst": "reward NULLS LAST, id DESC"}
REMEMBERED, CHECKED, AT_ONCE = 8, 64, 1000
"""Filters whose rows are kept; newest steps that are compared each time; rows of an export that are read together."""
QUESTION = 300
"""Characters of the prompt that are kept."""
GENERATION, DIRECTORY = "generation", "directory"
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

Read = Callable[[int], list[tuple[Any, ...]]]
"""The rows of a step: all columns but ``id``."""


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
    upto: int | None = None
    """The greatest ``id``: a list that somebody reads does not move while the run goes on."""

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
            ("id <= ?", self.upto),
        ]
        known = [(term, value) for term, value in terms if value is not None]
        return " AND ".join(term for term, _ in known) or "1", [value for _, value in known]


class Index:
    """The completions of one run, in a file of its own. Several processes may use it at once."""

    def __init__(self, cache: Path, run: Path, stamp: Callable[[int], str | None], read: Read) -> None:
        """``stamp``: of a step's file, as it is; None where there is none."""
        self.path, self.run, self.stamp, self.read = path_of(cache, run), run, stamp, read
        self._lock = threading.Lock()
        self._found: dict[tuple[str, Filter, str], tuple[int, array[int]]] = {}

    def refresh(self, steps: int, patience_s: float) -> int:
        """Take in what is new of a run of so many steps, for about this long. Returns how many steps are in."""
        with self._lock:
            try:
                return self._refresh(steps, patience_s)
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode not in DAMAGED:
                    raise
                return self._refresh(steps, patience_s)

    def _refresh(self, steps: int, patience_s: float) -> int:
        until = time.monotonic() + patience_s
        with self._open() as connection, _writing(connection):
            self._take_back(connection, steps)
            done = _steps(connection)
            while done < steps:
                self._add(connection, done)
                done += 1
                if time.monotonic() > until:
                    break
        return done

    def page(self, wanted: Filter, order: str, offset: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """How many there are, and those from ``offset`` on."""
        with self._open() as connection:
            connection.execute("BEGIN")
            ids = self._ids(connection, wanted, order)
            chosen = list(ids[offset : offset + limit])
            marks = ",".join("?" * len(chosen))
            query = f"SELECT {COLUMNS} FROM completions WHERE id IN ({marks})"
            rows = {row["id"]: dict(row) for row in connection.execute(query, chosen)}
        return len(ids), [rows[one] for one in chosen]

    def newest(self) -> int:
        """The greatest ``id``; 0 where there is none."""
        with self._open() as connection:
            return _newest(connection)

    def every(self, wanted: Filter) -> Iterator[list[dict[str, Any]]]:
        """All of them, oldest first, some at a time. Any thread may ask for the next ones."""
        condition, values = wanted.sql()
        with self._open(check_same_thread=False) as connection:
            query = f"SELECT {COLUMNS} FROM completions WHERE {condition} ORDER BY id"
            found = connection.execute(query, values)
            while rows := found.fetchmany(AT_ONCE):
                yield [dict(row) for row in rows]

    def means(self, prompt: int) -> list[tuple[int, float | None]]:
        """The mean reward of one prompt in each step that drew it; None where none of it could be scored."""
        query = "SELECT step, avg(reward) FROM completions WHERE prompt = ? GROUP BY step ORDER BY step"
        with self._open() as connection:
            return [(row[0], row[1]) for row in connection.execute(query, [prompt])]

    @contextlib.contextmanager
    def _open(self, check_same_thread: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection; a file that turns out to be damaged is removed, and made anew by the next refresh."""
        connection = self._connect(check_same_thread)
        try:
            yield connection
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode in DAMAGED:
                discard(self.path)
            raise
        finally:
            connection.close()

    def _connect(self, check_same_thread: bool) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(self.path.parent):  # SQLite does not wait where two make one file
            connection = sqlite3.connect(
                self.path, timeout=30, isolation_level=None, check_same_thread=check_same_thread
            )
            connection.row_factory = sqlite3.Row
            try:
                connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + SCHEMA)
                if connection.execute("SELECT count(*) FROM told").fetchone()[0] == 0:
                    told = [(GENERATION, secrets.token_hex(8)), (DIRECTORY, str(self.run.resolve()))]
                    connection.executemany("INSERT OR IGNORE INTO told VALUES (?, ?)", told)
            except sqlite3.DatabaseError as error:
                connection.close()
                if error.sqlite_errorcode in DAMAGED:
                    discard(self.path)
                raise
        return connection

    def _take_back(self, connection: sqlite3.Connection, steps: int) -> None:
        """Forget steps that the run took back, or sampled anew; they are among the last that are in."""
        known = connection.execute("SELECT step, stamp FROM steps ORDER BY step DESC LIMIT ?", [CHECKED]).fetchall()
        stale = [row["step"] for row in known if row["step"] >= steps or self.stamp(row["step"]) != row["stamp"]]
        if not stale:
            return
        first = min(stale)
        if len(stale) == CHECKED:  # another run in the same place, or one that took back more
            first = 0
        row = connection.execute("SELECT first FROM steps WHERE step = ?", [first]).fetchone()
        connection.execute("DELETE FROM completions WHERE id >= ?", [row["first"]])
        connection.execute("DELETE FROM steps WHERE step >= ?", [first])
        connection.execute("UPDATE told SET value = ? WHERE name = ?", [secrets.token_hex(8), GENERATION])

    def _add(self, connection: sqlite3.Connection, step: int) -> None:
        newest = _newest(connection)
        values = [(newest + k + 1, *row) for k, row in enumerate(self.read(step))]
        connection.executemany(f"INSERT INTO completions VALUES ({','.join('?' * 12)})", values)
        connection.execute("INSERT INTO steps VALUES (?, ?, ?)", [step, newest + 1, self.stamp(step)])

    def _ids(self, connection: sqlite3.Connection, wanted: Filter, order: str) -> Seq[int]:
        """Of all rows that are wanted, in order; what was found before is kept, and only new rows are looked at."""
        newest = _newest(connection)
        upto = newest if wanted.upto is None else min(newest, wanted.upto)
        everything = replace(wanted, upto=None)
        if everything == Filter() and order == "newest":
            return range(upto, 0, -1)
        (generation,) = connection.execute("SELECT value FROM told WHERE name = ?", [GENERATION]).fetchone()
        by_age = order in ("newest", "oldest")
        key = (generation, everything if by_age else replace(wanted, upto=upto), order)
        seen, known = self._found.get(key, (0, array("q")))
        if (by_age and seen < newest) or not seen:
            condition, values = key[1].sql()
            query = f"SELECT id FROM completions WHERE id > ? AND {condition} ORDER BY {ORDERS[order]}"
            new = array("q", (row[0] for row in connection.execute(query, [seen, *values])))
            known = known + new if order == "oldest" else new + known
            self._keep(key, newest, known)
        if order == "newest":
            return known[bisect_left(known, -upto, key=lambda one: -one) :]
        return known[: bisect_right(known, upto)] if order == "oldest" else known

    def _keep(self, key: tuple[str, Filter, str], newest: int, ids: "array[int]") -> None:
        with self._lock:
            self._found[key] = newest, ids
            while len(self._found) > REMEMBERED:
                self._found.pop(next(iter(self._found)))


@contextlib.contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction, begun as a writer: what is read in it is still so when something is written."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or takes back
        yield


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Among all threads and processes that use a directory of indices."""
    with (cache / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _newest(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT max(id) FROM completions").fetchone()[0] or 0)


def _steps(connection: sqlite3.Connection) -> int:
    """How many are in; there is none missing before the last."""
    last = connection.execute("SELECT max(step) FROM steps").fetchone()[0]
    return 0 if last is None else int(last) + 1


def path_of(cache: Path, run: Path) -> Path:
    """Where the index of a run directory lies."""
    return cache / f"{hashlib.sha256(f'{VERSION} {run.resolve()}'.encode()).hexdigest()[:32]}.sqlite"


def discard(path: Path) -> None:
    """Remove an index, if it is there."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def sweep(cache: Path) -> None:
    """Remove the indices of runs that are gone, and what cannot be read as one."""
    for path in cache.glob("*.sqlite"):
        try:
            with closing(sqlite3.connect(path)) as connection:
                row = connection.execute("SELECT value FROM told WHERE name = ?", [DIRECTORY]).fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in DAMAGED:
                continue
            row = None
        if row is None or not Path(row[0]).exists():
            discard(path)
