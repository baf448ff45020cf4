"""Buckets and what lies in them. An object is replaced as a whole, or not at all."""

from dataclasses import asdict

from sqlalchemy import Connection, delete, select, union_all
from sqlalchemy.dialects.sqlite import insert

from grpo.server.records import Multipart, Object, Part
from grpo.server.store.database import Database
from grpo.server.store.schema import buckets, multiparts, objects, parts

LAST = "\U0010ffff" * 256
"""Behind a prefix, no key of at most 1,024 bytes comes after it."""


class Objects:
    """The tables of buckets, objects, and objects that arrive in parts."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add_bucket(self, name: str, now: int) -> bool:
        """Whether it is new."""
        with self.database.write() as connection:
            statement = insert(buckets).values(name=name, created_at=now).on_conflict_do_nothing()
            return connection.execute(statement).rowcount > 0

    def buckets(self) -> dict[str, int]:
        """Name → time of creation, by name."""
        with self.database.read() as connection:
            return {row.name: row.created_at for row in connection.execute(select(buckets).order_by(buckets.c.name))}

    def has_bucket(self, name: str) -> bool:
        """Whether there is one."""
        with self.database.read() as connection:
            return connection.execute(select(buckets.c.name).where(buckets.c.name == name)).first() is not None

    def delete_bucket(self, name: str) -> bool:
        """False, and nothing done, while something lies in it."""
        with self.database.write() as connection:
            for table in (objects, multiparts):
                if connection.execute(select(table.c.key).where(table.c.bucket == name).limit(1)).first():
                    return False
            connection.execute(delete(buckets).where(buckets.c.name == name))
        return True

    def put(self, new: Object) -> str | None:
        """Store, or replace; the blob that it replaces, of which the caller disposes. Durable when it returns."""
        with self.database.write() as connection:
            old = _blob(connection, new.bucket, new.key)
            row = asdict(new)
            statement = insert(objects).values(**row)
            connection.execute(statement.on_conflict_do_update(index_elements=["bucket", "key"], set_=row))
        return old

    def get(self, bucket: str, key: str) -> Object | None:
        """The object, if there is one."""
        here = (objects.c.bucket == bucket) & (objects.c.key == key)
        with self.database.read() as connection:
            row = connection.execute(select(objects).where(here)).first()
        return Object(**row._mapping) if row else None

    def delete(self, bucket: str, key: str) -> str | None:
        """The blob of what was deleted; None where there was nothing."""
        with self.database.write() as connection:
            blob = _blob(connection, bucket, key)
            connection.execute(delete(objects).where((objects.c.bucket == bucket) & (objects.c.key == key)))
        return blob

    def after(self, bucket: str, prefix: str, after: str, limit: int) -> list[Object]:
        """Objects whose keys begin with ``prefix`` and come behind ``after``, in the order of their keys."""
        key = objects.c.key  # not LIKE, which takes upper and lower case for the same
        query = select(objects).where(objects.c.bucket == bucket, key > after, key >= prefix, key <= prefix + LAST)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(key).limit(limit)).all()
        return [Object(**row._mapping) for row in rows]

    def begin(self, new: Multipart) -> None:
        """An object that will arrive in parts."""
        with self.database.write() as connection:
            connection.execute(insert(multiparts).values(**asdict(new)))

    def multipart(self, upload: str) -> Multipart | None:
        """The one with this id, if there is one."""
        with self.database.read() as connection:
            row = connection.execute(select(multiparts).where(multiparts.c.id == upload)).first()
        return Multipart(**row._mapping) if row else None

    def put_part(self, new: Part) -> None:
        """Store, or replace."""
        with self.database.write() as connection:
            row = asdict(new)
            statement = insert(parts).values(**row)
            connection.execute(statement.on_conflict_do_update(index_elements=["multipart", "number"], set_=row))

    def parts(self, upload: str) -> list[Part]:
        """In order."""
        query = select(parts).where(parts.c.multipart == upload).order_by(parts.c.number)
        with self.database.read() as connection:
            return [Part(**row._mapping) for row in connection.execute(query)]

    def end(self, upload: str) -> None:
        """Forget a multipart and its parts."""
        with self.database.write() as connection:
            connection.execute(delete(multiparts).where(multiparts.c.id == upload))

    def uploads(self, bucket: str) -> list[Multipart]:
        """Multiparts that have begun in a bucket, by key."""
        query = select(multiparts).where(multiparts.c.bucket == bucket).order_by(multiparts.c.key, multiparts.c.id)
        with self.database.read() as connection:
            return [Multipart(**row._mapping) for row in connection.execute(query)]

    def blobs(self) -> set[str]:
        """All that something refers to."""
        with self.database.read() as connection:
            return set(connection.execute(union_all(select(objects.c.blob), select(parts.c.blob))).scalars())


def _blob(connection: Connection, bucket: str, key: str) -> str | None:
    here = (objects.c.bucket == bucket) & (objects.c.key == key)
    return connection.execute(select(objects.c.blob).where(here)).scalar()
