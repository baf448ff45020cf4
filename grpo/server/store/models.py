"""Tuned models."""

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert

from grpo.server.records import Model
from grpo.server.store.database import Database
from grpo.server.store.paging import fields
from grpo.server.store.schema import models


class Models:
    """The table of tuned models."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, new: Iterable[Model]) -> None:
        """Durable when it returns; a model that is there already stays as it is."""
        with self.database.write() as connection:
            store_models(connection, new)

    def get(self, model_id: str) -> Model | None:
        """The model with this id, if there is one."""
        with self.database.read() as connection:
            row = connection.execute(select(models).where(models.c.id == model_id)).first()
        return Model(**fields(row)) if row else None

    def all(self) -> list[Model]:
        """Oldest first."""
        with self.database.read() as connection:
            return [Model(**fields(row)) for row in connection.execute(select(models).order_by(models.c.serial))]

    def delete(self, model_id: str) -> bool:
        """Whether there was one; its checkpoint stays on disk."""
        with self.database.write() as connection:
            return connection.execute(delete(models).where(models.c.id == model_id)).rowcount > 0


def store_models(connection: Connection, new: Iterable[Model]) -> None:
    """Within the caller's transaction."""
    rows = [asdict(model) for model in new]
    if rows:
        connection.execute(insert(models).on_conflict_do_nothing(), rows)
