"""The first tables. Written out rather than taken from schema.py, which will have moved on."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "files",
        *_serial(),
        *_needed(sa.String, "filename", "purpose", "sha256"),
        *_needed(sa.Integer, "bytes", "created_at"),
        *_optional(sa.Integer, "expires_at", "rows"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "jobs",
        *_serial(),
        *_needed(sa.String, "status", "model", "local_model", "training_file"),
        *_needed(sa.Integer, "created_at", "seed", "attempt"),
        *_needed(JSON, "method", "settings"),
        *_optional(sa.String, "validation_file", "suffix", "fine_tuned_model"),
        *_optional(JSON, "metadata", "error", "verdict"),
        *_optional(sa.Integer, "started_at", "finished_at", "trained_tokens"),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_status", "jobs", ["status"])
    _runs()


def _runs() -> None:
    """What jobs bring forth, and what they use."""
    op.create_table(
        "events",
        *_serial(),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), nullable=False),
        *_needed(sa.String, "key", "level", "message", "type"),
        *_needed(sa.Integer, "created_at"),
        *_optional(JSON, "data"),
        sa.UniqueConstraint("job_id", "key"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_of_job", "events", ["job_id", "serial"])
    op.create_table(
        "checkpoints",
        *_serial(),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), nullable=False),
        *_needed(sa.Integer, "step", "created_at"),
        *_needed(sa.String, "model"),
        *_needed(JSON, "metrics"),
        sa.UniqueConstraint("job_id", "step"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "models",
        *_serial(),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), nullable=False),
        *_needed(sa.String, "base", "adapter"),
        *_needed(sa.Integer, "rank", "created_at"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "functions",
        sa.Column("name", sa.String, primary_key=True),
        *_needed(sa.String, "sha256", "handler"),
        *_needed(sa.Float, "timeout_s"),
        *_needed(sa.Integer, "memory_mb", "created_at"),
        *_needed(JSON, "environment"),
        *_needed(sa.Boolean, "network"),
    )
    op.create_table(
        "idempotency",
        sa.Column("key", sa.String, primary_key=True),
        *_needed(sa.String, "request", "object_id"),
        *_needed(sa.Integer, "created_at"),
    )


def _serial() -> tuple[sa.Column[Any], sa.Column[Any]]:
    return sa.Column("serial", sa.Integer, primary_key=True), sa.Column("id", sa.String, nullable=False, unique=True)


def _needed(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _optional(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind) for name in names]
