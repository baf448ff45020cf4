"""/files."""

import os
import time
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from grpo.server import training_files, uploads
from grpo.server.context import Server, ServerDependency
from grpo.server.errors import Conflict, Invalid, NotFound
from grpo.server.openai import wire
from grpo.server.records import PAUSED, QUEUED, RUNNING, VALIDATING, File
from grpo.server.uploads import Upload

router = APIRouter(tags=["files"])
SHORTEST_LIFE_S, LONGEST_LIFE_S = 3600, 2_592_000
LONGEST_NAME = 255
UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {"type": "string", "enum": list(wire.PURPOSES)},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


@router.post("/files", openapi_extra=UPLOAD_BODY)
async def create(request: Request, server: ServerDependency) -> dict[str, Any]:
    """Upload a file; it is there when this answers, whatever happens next."""
    kind = request.headers.get("content-type", "")
    upload = await uploads.receive(kind, request.stream(), server.data.files, server.settings.largest_upload)
    try:
        return wire.file(await run_in_threadpool(keep, server, upload))
    finally:
        upload.path.unlink(missing_ok=True)


def keep(server: Server, upload: Upload) -> File:
    """Check what arrived, give it an id, and make both bytes and record durable."""
    unknown = set(upload.fields) - {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    if unknown:
        raise Invalid(f"unknown field {min(unknown)[:64]!r}", param=min(unknown)[:64])
    purpose = upload.fields.get("purpose")
    if purpose not in wire.PURPOSES:
        raise Invalid(f"purpose: required, one of {', '.join(wire.PURPOSES)}", param="purpose")
    if upload.filename is None:
        raise Invalid("file: required", param="file")
    name = upload.filename[-LONGEST_NAME:]
    rows = training_files.check(upload.path, name) if purpose == "fine-tune" else None
    now = int(time.time())
    record = File(
        id=f"file-{uuid.uuid4().hex}",
        filename=name,
        purpose=purpose,
        bytes=upload.bytes,
        sha256=upload.sha256,
        created_at=now,
        expires_at=expiry(upload.fields, now),
        rows=rows,
    )
    upload.path.rename(server.data.file(record.id))
    sync_directory(server.data.files)
    server.store.files.add(record)
    return record


def expiry(fields: dict[str, str], now: int) -> int | None:
    """``expires_after`` as a time."""
    seconds, anchor = fields.get("expires_after[seconds]"), fields.get("expires_after[anchor]")
    if seconds is None and anchor is None:
        return None
    if anchor != "created_at":
        raise Invalid("expires_after[anchor]: must be created_at", param="expires_after[anchor]")
    if not (seconds and seconds.isascii() and seconds.isdigit() and len(seconds) < 9):
        raise Invalid("expires_after[seconds]: expected a whole number", param="expires_after[seconds]")
    if not SHORTEST_LIFE_S <= int(seconds) <= LONGEST_LIFE_S:
        raise Invalid(
            f"expires_after[seconds]: from {SHORTEST_LIFE_S} to {LONGEST_LIFE_S}", param="expires_after[seconds]"
        )
    return now + int(seconds)


@router.get("/files")
def list_files(
    server: ServerDependency,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> dict[str, Any]:
    """Newest first unless asked otherwise."""
    found, more = server.store.files.page(after=after, limit=limit, newest_first=order == "desc", purpose=purpose)
    return wire.page([wire.file(record) for record in found], more)


@router.get("/files/{file_id}")
def retrieve(file_id: str, server: ServerDependency) -> dict[str, Any]:
    """One file's record."""
    return wire.file(find(server, file_id))


@router.get("/files/{file_id}/content", response_class=FileResponse)
def content(file_id: str, server: ServerDependency) -> FileResponse:
    """The bytes as they came."""
    record = find(server, file_id)
    return FileResponse(server.data.file(record.id), media_type="application/octet-stream")


@router.delete("/files/{file_id}")
def delete(file_id: str, server: ServerDependency) -> dict[str, Any]:
    """Refused while a job needs the file."""
    record = find(server, file_id)
    if record.id in server.store.jobs.files_in_use((VALIDATING, QUEUED, RUNNING, PAUSED)):
        raise Conflict("a job that has not ended needs this file", code="file_in_use")
    server.store.files.delete(record.id)
    server.data.file(record.id).unlink(missing_ok=True)
    return {"id": record.id, "object": "file", "deleted": True}


def find(server: Server, file_id: str) -> File:
    """The record, or NotFound."""
    record = server.store.files.get(file_id)
    if record is None:
        raise NotFound(f"no file {file_id[:100]!r}", param="file_id")
    return record


def sync_directory(path: os.PathLike[str]) -> None:
    """Make a rename durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
