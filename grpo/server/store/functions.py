"""Registered reward functions."""

from dataclasses import asdict

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from grpo.server.records import Function
from grpo.server.store.database import Database
from grpo.server.store.schema import functions


class Functions:
    """The table of reward functions."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def put(self, function: Function) -> None:
        """Register, or replace under the same name. Durable when it returns."""
        row = asdict(function)
        with self.database.write() as connection:
            statement = insert(functions).values(**row)
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))

    def get(self, name: str) -> Function | None:
        """The function with this name, if there is one."""
        with self.database.read() as connection:
            row = connection.execute(select(functions).where(functions.c.name == name)).first()
        return Function(**row._mapping) if row else None

    def all(self) -> list[Function]:
        """By name."""
        with self.database.read() as connection:
            return [Function(**r._mapping) for r in connection.execute(select(functions).order_by(functions.c.name))]

    def delete(self, name: str) -> bool:
        """Whether there was one; its code stays for the jobs that use it."""
        with self.database.write() as connection:
            return connection.execute(delete(functions).where(functions.c.name == name)).rowcount > 0
