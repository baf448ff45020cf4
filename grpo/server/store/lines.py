"""What functions printed, by group and stream, as CloudWatch Logs has it."""

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import delete, func, insert, select

from grpo.server.records import LogLine
from grpo.server.store.database import Database
from grpo.server.store.schema import log_lines


class Lines:
    """The table of log lines."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, new: Iterable[LogLine]) -> None:
        """Durable when it returns."""
        rows = [asdict(line) for line in new]
        if rows:
            with self.database.write() as connection:
                connection.execute(insert(log_lines), rows)

    def groups(self) -> dict[str, int]:
        """Name → time of the first line, in ms; by name."""
        query = select(log_lines.c.group, func.min(log_lines.c.at_ms)).group_by(log_lines.c.group)
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query.order_by(log_lines.c.group))}

    def streams(self, group: str) -> dict[str, tuple[int, int]]:
        """Name → times of the first and the last line, in ms; by name."""
        first, last = func.min(log_lines.c.at_ms), func.max(log_lines.c.at_ms)
        query = select(log_lines.c.stream, first, last).where(log_lines.c.group == group).group_by(log_lines.c.stream)
        with self.database.read() as connection:
            return {row[0]: (row[1], row[2]) for row in connection.execute(query.order_by(log_lines.c.stream))}

    def of(
        self, group: str, streams: Iterable[str] | None, start: int, end: int, after: int, limit: int
    ) -> list[tuple[int, LogLine]]:
        """Serial numbers and lines behind ``after``, oldest first, with times from ``start`` to before ``end``."""
        query = select(log_lines).where(log_lines.c.group == group, log_lines.c.serial > after)
        query = query.where(log_lines.c.at_ms >= start, log_lines.c.at_ms < end)
        if streams is not None:
            query = query.where(log_lines.c.stream.in_(list(streams)))
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(log_lines.c.serial).limit(limit)).all()
        return [
            (row.serial, LogLine(group=row.group, stream=row.stream, at_ms=row.at_ms, message=row.message))
            for row in rows
        ]

    def count(self, group: str, stream: str) -> int:
        """Lines of one stream."""
        query = select(func.count()).where(log_lines.c.group == group, log_lines.c.stream == stream)
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def delete(self, group: str) -> bool:
        """Whether there was one."""
        with self.database.write() as connection:
            return connection.execute(delete(log_lines).where(log_lines.c.group == group)).rowcount > 0
