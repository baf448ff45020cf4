"""Tags of whatever has an ARN."""

from collections.abc import Iterable, Mapping

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from grpo.server.store.database import Database
from grpo.server.store.schema import tags


class Tags:
    """The table of tags."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def put(self, arn: str, new: Mapping[str, str]) -> None:
        """Add, or replace."""
        rows = [{"arn": arn, "key": key, "value": value} for key, value in new.items()]
        if rows:
            with self.database.write() as connection:
                statement = insert(tags)
                changed = {"value": statement.excluded.value}
                connection.execute(statement.on_conflict_do_update(index_elements=["arn", "key"], set_=changed), rows)

    def of(self, arn: str) -> dict[str, str]:
        """By key."""
        with self.database.read() as connection:
            query = select(tags).where(tags.c.arn == arn).order_by(tags.c.key)
            return {row.key: row.value for row in connection.execute(query)}

    def remove(self, arn: str, keys: Iterable[str]) -> None:
        """Those with these keys."""
        with self.database.write() as connection:
            connection.execute(delete(tags).where(tags.c.arn == arn, tags.c.key.in_(list(keys))))
