"""Jobs and their transitions. A transition is a compare-and-set: it happens once, in a legal order, or not at all."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, or_, select, update

from grpo.server.records import NEXT, Event, Job, Model
from grpo.server.store.database import Database
from grpo.server.store.log import store_events
from grpo.server.store.models import store_models
from grpo.server.store.paging import fields, page
from grpo.server.store.schema import checkpoints, customizations, events, idempotency, jobs, models


class Jobs:
    """The table of jobs."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, job: Job, key: str | None = None, request: str = "") -> Job:
        """Store a new job, durable when it returns. With an idempotency key that was used before, the job it made.

        Raises ValueError when the key was used with another request.
        """
        with self.database.write() as connection:
            if key is not None:
                made = _made_before(connection, key, request)
                if made:
                    return made
                values = {"key": key, "request": request, "object_id": job.id, "created_at": job.created_at}
                connection.execute(insert(idempotency).values(**values))
            connection.execute(insert(jobs).values(**asdict(job)))
        return job

    def made_before(self, key: str, request: str) -> Job | None:
        """The job that this idempotency key made. Raises ValueError when that was by another request."""
        with self.database.read() as connection:
            return _made_before(connection, key, request)

    def get(self, job_id: str) -> Job | None:
        """The job with this id, if there is one."""
        with self.database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
        return Job(**fields(row)) if row else None

    def beginning(self, beginning: str) -> Job | None:
        """The job whose id begins so, if there is one."""
        query = select(jobs).where(jobs.c.id.startswith(beginning, autoescape=True)).order_by(jobs.c.serial)
        with self.database.read() as connection:
            row = connection.execute(query).first()
        return Job(**fields(row)) if row else None

    def page(
        self, *, after: str | None, limit: int, metadata: dict[str, str] | None, without_metadata: bool = False
    ) -> tuple[list[Job], bool]:
        """The newest jobs behind ``after``, those with all these metadata pairs. Raises Invalid: no such cursor."""
        query = select(jobs)
        for name, value in (metadata or {}).items():
            pair = func.json_each(jobs.c.metadata).table_valued("key", "value")
            query = query.where(exists(select(1).select_from(pair).where(pair.c.key == name, pair.c.value == value)))
        if without_metadata:
            query = query.where(or_(jobs.c.metadata.is_(None), func.json(jobs.c.metadata) == "{}"))
        with self.database.read() as connection:
            rows, more = page(connection, jobs, query, after=after, limit=limit)
        return [Job(**fields(row)) for row in rows], more

    def with_status(self, *statuses: str) -> list[Job]:
        """Oldest first."""
        query = select(jobs).where(jobs.c.status.in_(statuses)).order_by(jobs.c.serial)
        with self.database.read() as connection:
            return [Job(**fields(row)) for row in connection.execute(query)]

    def move(
        self, job: Job, status: str, *, told: Mapping[str, Event], models: Iterable[Model] = (), **changes: Any
    ) -> Job | None:
        """Bring the job from the state it was read in to ``status``; None when it is no longer in that state.

        State means status and attempt, so neither a stale reader nor a stale worker moves it. The events in ``told``
        and the models are stored with it or not at all. Durable when it returns.
        """
        if status not in NEXT[job.status]:
            return None
        here = (jobs.c.id == job.id) & (jobs.c.status == job.status) & (jobs.c.attempt == job.attempt)
        with self.database.write() as connection:
            done = connection.execute(update(jobs).where(here).values(status=status, **changes)).rowcount
            if done:
                store_events(connection, told)
                store_models(connection, models)
            row = connection.execute(select(jobs).where(jobs.c.id == job.id)).first()
        return Job(**fields(row)) if done and row else None

    def begin_attempt(self, job: Job) -> Job | None:
        """Number the next worker of a running job; None when the job was moved meanwhile."""
        here = (jobs.c.id == job.id) & (jobs.c.status == job.status) & (jobs.c.attempt == job.attempt)
        with self.database.write() as connection:
            done = connection.execute(update(jobs).where(here).values(attempt=job.attempt + 1)).rowcount
            row = connection.execute(select(jobs).where(jobs.c.id == job.id)).first()
        return Job(**fields(row)) if done and row else None

    def remove(self, job_id: str) -> None:
        """The job with its events, checkpoints, models and names. Durable when it returns."""
        with self.database.write() as connection:
            for table in (events, checkpoints, models, customizations):
                connection.execute(delete(table).where(table.c.job_id == job_id))
            connection.execute(delete(idempotency).where(idempotency.c.object_id == job_id))
            connection.execute(delete(jobs).where(jobs.c.id == job_id))

    def files_in_use(self, statuses: Iterable[str]) -> set[str]:
        """Files that jobs in these states need."""
        query = select(jobs.c.training_file, jobs.c.validation_file).where(jobs.c.status.in_(statuses))
        with self.database.read() as connection:
            return {file for row in connection.execute(query) for file in row if file}


def _made_before(connection: Connection, key: str, request: str) -> Job | None:
    used = connection.execute(select(idempotency).where(idempotency.c.key == key)).first()
    if used is None:
        return None
    if used.request != request:
        raise ValueError(key)
    return Job(**fields(connection.execute(select(jobs).where(jobs.c.id == used.object_id)).one()))
