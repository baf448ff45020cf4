"""What Amazon's APIs need beside the jobs. Written out rather than taken from schema.py, which will have moved on."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Buckets and their objects, log lines, what Bedrock keeps of a job, and what Lambda keeps of a function."""
    op.create_table("buckets", sa.Column("name", sa.String, primary_key=True), *_needed(sa.Integer, "created_at"))
    op.create_table(
        "objects",
        sa.Column("bucket", sa.String, sa.ForeignKey("buckets.name"), primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        *_needed(sa.String, "blob", "etag", "content_type"),
        *_needed(sa.Integer, "bytes", "created_at"),
        *_needed(JSON, "metadata"),
    )
    op.create_table(
        "multiparts",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("bucket", sa.String, sa.ForeignKey("buckets.name"), nullable=False),
        *_needed(sa.String, "key", "content_type"),
        *_needed(sa.Integer, "created_at"),
        *_needed(JSON, "metadata"),
    )
    op.create_table(
        "parts",
        sa.Column("multipart", sa.String, sa.ForeignKey("multiparts.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        *_needed(sa.String, "blob", "etag"),
        *_needed(sa.Integer, "bytes"),
    )
    _of_jobs_and_functions()


def _of_jobs_and_functions() -> None:
    op.create_table(
        "log_lines",
        sa.Column("serial", sa.Integer, primary_key=True),
        *_needed(sa.String, "group", "stream", "message"),
        *_needed(sa.Integer, "at_ms"),
        sqlite_autoincrement=True,
    )
    op.create_index("lines_of_stream", "log_lines", ["group", "stream", "serial"])
    op.create_table(
        "customizations",
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("model_name", sa.String, nullable=False, unique=True),
        *_needed(sa.String, "region"),
        *_needed(JSON, "request"),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        *_needed(sa.String, "model_arn", "region"),
        *_needed(sa.Integer, "created_at", "updated_at"),
        sa.Column("description", sa.String),
    )
    op.create_table(
        "tags",
        sa.Column("arn", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        *_needed(sa.String, "value"),
    )
    for column in ("runtime", "role", "description", "code_sha256"):
        op.add_column("functions", sa.Column(column, sa.String))
    op.add_column("functions", sa.Column("code_bytes", sa.Integer))


def _needed(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]
