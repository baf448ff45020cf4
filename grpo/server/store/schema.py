"""The tables."""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()

files = Table(
    "files",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("filename", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer),
    Column("rows", Integer),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("status", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("model", String, nullable=False),
    Column("local_model", String, nullable=False),
    Column("training_file", String, nullable=False),
    Column("validation_file", String),
    Column("seed", Integer, nullable=False),
    Column("method", JSON, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("suffix", String),
    Column("metadata", JSON(none_as_null=True)),
    Column("started_at", Integer),
    Column("finished_at", Integer),
    Column("attempt", Integer, nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("verdict", JSON(none_as_null=True)),
    Column("fine_tuned_model", String),
    Column("trained_tokens", Integer),
    sqlite_autoincrement=True,
)

Index("jobs_status", jobs.c.status)

events = Table(
    "events",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    Column("key", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("level", String, nullable=False),
    Column("message", String, nullable=False),
    Column("type", String, nullable=False),
    Column("data", JSON(none_as_null=True)),
    UniqueConstraint("job_id", "key"),  # an event that is told twice is one event
    sqlite_autoincrement=True,
)
Index("events_of_job", events.c.job_id, events.c.serial)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    Column("step", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("model", String, nullable=False),
    Column("metrics", JSON, nullable=False),
    UniqueConstraint("job_id", "step"),
    sqlite_autoincrement=True,
)

models = Table(
    "models",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    Column("base", String, nullable=False),
    Column("adapter", String, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    sqlite_autoincrement=True,
)

functions = Table(
    "functions",
    metadata,
    Column("name", String, primary_key=True),
    Column("sha256", String, nullable=False),
    Column("handler", String, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("network", Boolean, nullable=False),
    Column("created_at", Integer, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", String, primary_key=True),
    Column("request", String, nullable=False),
    Column("object_id", String, nullable=False),
    Column("created_at", Integer, nullable=False),
)
