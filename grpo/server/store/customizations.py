"""What Bedrock's native API keeps of jobs: their names there, and the request as it came."""

from dataclasses import asdict

from sqlalchemy import insert, select, update

from grpo.server.records import Customization
from grpo.server.store.database import Database
from grpo.server.store.schema import customizations


class Customizations:
    """The table beside that of the jobs."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, new: Customization) -> None:
        """Durable when it returns."""
        with self.database.write() as connection:
            connection.execute(insert(customizations).values(**asdict(new)))

    def named(self, name: str) -> Customization | None:
        """The one with this job name."""
        with self.database.read() as connection:
            row = connection.execute(select(customizations).where(customizations.c.name == name)).first()
        return Customization(**row._mapping) if row else None

    def model_named(self, model_name: str) -> Customization | None:
        """The one whose model has this name."""
        with self.database.read() as connection:
            row = connection.execute(select(customizations).where(customizations.c.model_name == model_name)).first()
        return Customization(**row._mapping) if row else None

    def release(self, job_id: str) -> None:
        """Of a job that made no model, and will make none: its model's name is free again."""
        with self.database.write() as connection:
            here = customizations.c.job_id == job_id
            connection.execute(update(customizations).where(here).values(model_name=f"none of {job_id}"))

    def all(self) -> dict[str, Customization]:
        """By the job's id."""
        with self.database.read() as connection:
            return {row.job_id: Customization(**row._mapping) for row in connection.execute(select(customizations))}
