"""Opening the database: durable commits, migrations with a backup, and never a deletion. Touches: disk."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError

from grpo.errors import GrpoError

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0002"
"""The newest revision in ``migrations``."""
BUSY_MS = 10_000


class StoreError(GrpoError):
    """The database cannot be opened; it is left as it is."""


class Database:
    """One SQLite file in WAL mode. A commit is on disk when ``write`` returns (synchronous=FULL)."""

    def __init__(self, path: Path) -> None:
        """Open or create, and migrate after a backup. Raises StoreError."""
        self.path = path
        self._lock = threading.Lock()
        self._engine = _connect(path)
        try:
            found = self.revision()
            if found != HEAD:
                self._migrate(found)
        except DatabaseError as error:
            raise StoreError(f"{path}: cannot be opened ({error.orig}). It was not touched; mend or move it") from None

    def revision(self) -> str | None:
        """The revision of the tables on disk; None for an empty database."""
        with self._engine.connect() as connection:
            table = connection.execute(text("select 1 from sqlite_master where name = 'alembic_version'")).first()
            row = connection.execute(text("select version_num from alembic_version")).first() if table else None
        return row[0] if row else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("begin")
            try:
                yield connection
            finally:
                connection.exec_driver_sql("rollback")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that waits for the others and is durable when the block ends; nothing of it if it raises."""
        with self._lock, self._engine.connect() as connection:
            connection.exec_driver_sql("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("rollback")
                raise
            connection.exec_driver_sql("commit")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _migrate(self, found: str | None) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise StoreError(
                f"{self.path}: made by a newer version (revision {found}). Use that version; it was left as it is"
            )
        if found is not None:
            self.backup(self.path.with_name(f"{self.path.name}.before-{HEAD}-{int(time.time())}"))
        with self._engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def backup(self, target: Path) -> None:
        """Copy the database as it is now, other connections notwithstanding."""
        with sqlite3.connect(self.path) as source, sqlite3.connect(target) as copy:
            source.backup(copy)
        source.close()
        copy.close()


def _connect(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT", pool_size=16, max_overflow=32)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"pragma busy_timeout = {BUSY_MS}")
        cursor.execute("pragma journal_mode = wal")
        cursor.execute("pragma synchronous = full")
        cursor.execute("pragma foreign_keys = on")
        cursor.close()

    return engine
