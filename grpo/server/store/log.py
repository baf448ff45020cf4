"""Events and checkpoints of jobs. What is told twice is stored once, so a reader may start over at any time."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from grpo.server.records import Checkpoint, Event
from grpo.server.store.database import Database
from grpo.server.store.paging import fields, page
from grpo.server.store.schema import checkpoints, events


class Log:
    """The tables of events and checkpoints."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, told: Mapping[str, Event], complete: Iterable[Checkpoint] = ()) -> None:
        """Store events under keys that are theirs for good, and checkpoints, all together; what is there stays."""
        saved = [asdict(checkpoint) for checkpoint in complete]
        if not told and not saved:
            return
        with self.database.write() as connection:
            store_events(connection, told)
            if saved:
                connection.execute(insert(checkpoints).on_conflict_do_nothing(), saved)

    def events(
        self, job_id: str, *, after: str | None, limit: int, newest_first: bool = True
    ) -> tuple[list[Event], bool]:
        """The job's events behind ``after``, and whether there are more. Raises Invalid: no such cursor."""
        query = select(events).where(events.c.job_id == job_id)
        with self.database.read() as connection:
            rows, more = page(connection, events, query, after=after, limit=limit, newest_first=newest_first)
        return [Event(**_without(fields(row), "key")) for row in rows], more

    def has(self, job_id: str, key: str) -> bool:
        """Whether an event with this key was told."""
        query = select(func.count()).where(events.c.job_id == job_id, events.c.key == key)
        with self.database.read() as connection:
            return bool(connection.execute(query).scalar_one())

    def steps_told(self, job_id: str) -> int:
        """How many steps have their metrics event; they are told in order."""
        query = select(func.count()).where(events.c.job_id == job_id, events.c.type == "metrics")
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def checkpoints(self, job_id: str, *, after: str | None, limit: int) -> tuple[list[Checkpoint], bool]:
        """The job's newest checkpoints behind ``after``. Raises Invalid: no such cursor."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id)
        with self.database.read() as connection:
            rows, more = page(connection, checkpoints, query, after=after, limit=limit)
        return [Checkpoint(**fields(row)) for row in rows], more


def store_events(connection: Connection, told: Mapping[str, Event]) -> None:
    """Within the caller's transaction."""
    rows = [asdict(event) | {"key": key} for key, event in told.items()]
    if rows:
        connection.execute(insert(events).on_conflict_do_nothing(), rows)


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}
