"""What Bedrock's native API keeps of jobs: their names there, and the request as it came."""

from dataclasses import asdict

from sqlalchemy import insert, select, text

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
        """The newest one whose model has this name; those before it made none."""
        query = select(customizations).where(customizations.c.model_name == model_name).order_by(text("rowid DESC"))
        with self.database.read() as connection:
            row = connection.execute(query).first()
        return Customization(**row._mapping) if row else None

    def all(self) -> dict[str, Customization]:
        """By the job's id."""
        with self.database.read() as connection:
            return {row.job_id: Customization(**row._mapping) for row in connection.execute(select(customizations))}
