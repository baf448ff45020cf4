"""Cursor pages: the rows behind an id, in the order of their serial numbers."""

from typing import Any

from sqlalchemy import Connection, Row, Table, select
from sqlalchemy.sql import Select

from grpo.server.errors import Invalid

Rows = list[Row[tuple[Any, ...]]]


def page(
    connection: Connection,
    table: Table,
    query: Select[Any],
    *,
    after: str | None,
    limit: int,
    newest_first: bool = True,
) -> tuple[Rows, bool]:
    """Up to ``limit`` rows behind the row ``after``, and whether there are more. Raises Invalid: no such cursor."""
    serial = table.c.serial
    if after is not None:
        cursor = connection.execute(select(serial).where(table.c.id == after)).scalar()
        if cursor is None:
            raise Invalid(f"after: nothing with the id {after[:100]!r} in this list", param="after")
        query = query.where(serial < cursor if newest_first else serial > cursor)
    rows = connection.execute(query.order_by(serial.desc() if newest_first else serial).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def fields(row: Row[tuple[Any, ...]]) -> dict[str, Any]:
    """The row without its serial number."""
    found = dict(row._mapping)
    found.pop("serial", None)
    return found
