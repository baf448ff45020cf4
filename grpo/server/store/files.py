"""Uploaded files."""

from dataclasses import asdict

from sqlalchemy import delete, insert, select

from grpo.server.records import File
from grpo.server.store.database import Database
from grpo.server.store.paging import fields, page
from grpo.server.store.schema import files


class Files:
    """The table of uploaded files."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, file: File) -> None:
        """Durable when it returns."""
        with self.database.write() as connection:
            connection.execute(insert(files).values(**asdict(file)))

    def get(self, file_id: str) -> File | None:
        """The file with this id, if there is one."""
        with self.database.read() as connection:
            row = connection.execute(select(files).where(files.c.id == file_id)).first()
        return File(**fields(row)) if row else None

    def page(
        self, *, after: str | None, limit: int, newest_first: bool, purpose: str | None
    ) -> tuple[list[File], bool]:
        """Up to ``limit`` files behind ``after``, and whether there are more. Raises Invalid: no such cursor."""
        query = select(files) if purpose is None else select(files).where(files.c.purpose == purpose)
        with self.database.read() as connection:
            rows, more = page(connection, files, query, after=after, limit=limit, newest_first=newest_first)
        return [File(**fields(row)) for row in rows], more

    def delete(self, file_id: str) -> bool:
        """Whether there was one."""
        with self.database.write() as connection:
            return connection.execute(delete(files).where(files.c.id == file_id)).rowcount > 0

    def expired(self, now: int) -> list[str]:
        """Ids of the files whose time is over."""
        with self.database.read() as connection:
            return list(connection.execute(select(files.c.id).where(files.c.expires_at <= now)).scalars())

    def ids(self) -> set[str]:
        """All of them."""
        with self.database.read() as connection:
            return set(connection.execute(select(files.c.id)).scalars())
