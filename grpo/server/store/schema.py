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
    Column("runtime", String),
    Column("role", String),
    Column("description", String),
    Column("code_sha256", String),
    Column("code_bytes", Integer),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", String, primary_key=True),
    Column("request", String, nullable=False),
    Column("object_id", String, nullable=False),
    Column("created_at", Integer, nullable=False),
)

buckets = Table(
    "buckets",
    metadata,
    Column("name", String, primary_key=True),
    Column("created_at", Integer, nullable=False),
)

objects = Table(
    "objects",
    metadata,
    Column("bucket", String, ForeignKey("buckets.name"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("blob", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("etag", String, nullable=False),
    Column("content_type", String, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("created_at", Integer, nullable=False),
)

multiparts = Table(
    "multiparts",
    metadata,
    Column("id", String, primary_key=True),
    Column("bucket", String, ForeignKey("buckets.name"), nullable=False),
    Column("key", String, nullable=False),
    Column("content_type", String, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("created_at", Integer, nullable=False),
)

parts = Table(
    "parts",
    metadata,
    Column("multipart", String, ForeignKey("multiparts.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("blob", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("etag", String, nullable=False),
)

log_lines = Table(
    "log_lines",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("group", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("at_ms", Integer, nullable=False),
    Column("message", String, nullable=False),
    sqlite_autoincrement=True,
)
Index("lines_of_stream", log_lines.c.group, log_lines.c.stream, log_lines.c.serial)

customizations = Table(
    "customizations",
    metadata,
    Column("job_id", String, ForeignKey("jobs.id"), primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("model_name", String, nullable=False, unique=True),
    Column("region", String, nullable=False),
    Column("request", JSON, nullable=False),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("model_arn", String, nullable=False),
    Column("region", String, nullable=False),
    Column("description", String),
    Column("created_at", Integer, nullable=False),
    Column("updated_at", Integer, nullable=False),
)

tags = Table(
    "tags",
    metadata,
    Column("arn", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)
