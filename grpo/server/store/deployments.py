"""Deployments of tuned models: names under which they are called."""

from dataclasses import asdict

from sqlalchemy import delete, insert, or_, select, update

from grpo.server.records import Deployment
from grpo.server.store.database import Database
from grpo.server.store.schema import deployments


class Deployments:
    """The table of deployments."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, new: Deployment) -> bool:
        """False, and nothing done, where the name is taken."""
        with self.database.write() as connection:
            if connection.execute(select(deployments.c.id).where(deployments.c.name == new.name)).first():
                return False
            connection.execute(insert(deployments).values(**asdict(new)))
        return True

    def get(self, identifier: str) -> Deployment | None:
        """The one with this id or name, if there is one."""
        wanted = or_(deployments.c.id == identifier, deployments.c.name == identifier)
        with self.database.read() as connection:
            row = connection.execute(select(deployments).where(wanted)).first()
        return Deployment(**row._mapping) if row else None

    def all(self) -> list[Deployment]:
        """Newest first."""
        query = select(deployments).order_by(deployments.c.created_at.desc(), deployments.c.id)
        with self.database.read() as connection:
            return [Deployment(**row._mapping) for row in connection.execute(query)]

    def point(self, deployment_id: str, model_arn: str, now: int) -> None:
        """To another model."""
        with self.database.write() as connection:
            here = deployments.c.id == deployment_id
            connection.execute(update(deployments).where(here).values(model_arn=model_arn, updated_at=now))

    def delete(self, deployment_id: str) -> None:
        """Nothing where there is none."""
        with self.database.write() as connection:
            connection.execute(delete(deployments).where(deployments.c.id == deployment_id))
