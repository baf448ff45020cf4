"""/fine_tuning/jobs."""

import hashlib
import secrets
import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request

from grpo.server import plan, transitions
from grpo.server.catalogue import BEDROCK, plain
from grpo.server.context import Server, ServerDependency
from grpo.server.errors import Conflict, Invalid, NotFound
from grpo.server.openai import wire
from grpo.server.records import CANCELLED, PAUSED, QUEUED, VALIDATING, File, Job

router = APIRouter(prefix="/fine_tuning", tags=["fine-tuning"])
FEWEST_ROWS, MOST_ROWS = 100, 20_000
"""Of a training file, at Bedrock."""
Limit = Annotated[int, Query(ge=1, le=1000)]
IdempotencyKey = Annotated[str | None, Header(max_length=255)]


@router.post("/jobs")
def create(body: wire.CreateJob, server: ServerDependency, idempotency_key: IdempotencyKey = None) -> dict[str, Any]:
    """The job is there when this answers. The same Idempotency-Key makes one job, however often it is sent."""
    if server.settings.strict:
        check_strictly(body)
    request = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    try:
        made = server.store.jobs.made_before(idempotency_key, request) if idempotency_key else None
        stored = made or server.store.jobs.add(new_job(body, server), idempotency_key, request)
    except ValueError:
        raise Conflict("this Idempotency-Key was used with another body", code="idempotency_conflict") from None
    server.supervisor.wake()
    return wire.job(stored)


def new_job(body: wire.CreateJob, server: Server) -> Job:
    """The record of a valid request. Raises Invalid or NotFound, naming the field."""
    reinforcement = checked_method(body)
    train = training_file(server, body.training_file, "training_file")
    heldout = training_file(server, body.validation_file, "validation_file") if body.validation_file else None
    model = server.catalogue.find(body.model)
    job_id = f"ftjob-{uuid.uuid4().hex}"
    seed = body.seed if body.seed is not None else secrets.randbelow(2**31)
    asked = reinforcement.hyperparameters.model_dump(exclude_unset=True)
    request = plan.Request(
        model=model,
        train=server.data.file(train.id),
        rows=train.rows or 0,
        heldout=server.data.file(heldout.id) if heldout else None,
        seed=seed,
        reward=server.graders.reward(reinforcement.grader, "method.reinforcement.grader"),
        hyperparameters=asked,
        sampler=server.settings.sampler,
        engine_memory_gib=server.settings.engine_memory_gib,
        grpo=reinforcement.grpo or {},
    )
    assert body.method is not None
    return Job(
        id=job_id,
        status=VALIDATING,
        created_at=int(time.time()),
        model=body.model,
        local_model=str(model),
        training_file=train.id,
        validation_file=heldout.id if heldout else None,
        seed=seed,
        method=body.method.model_dump(exclude_unset=True),
        settings=plan.settings(request, server.data.run(job_id)),
        suffix=body.suffix,
        metadata=body.metadata,
    )


def checked_method(body: wire.CreateJob) -> wire.Reinforcement:
    """The one method there is. What we do not do is said by name."""
    if body.integrations:
        raise Invalid("integrations are not implemented yet", param="integrations")
    if body.hyperparameters is not None:
        raise Invalid(
            "top-level hyperparameters belong to supervised fine-tuning, which is not implemented",
            param="hyperparameters",
        )
    if body.method is None or body.method.type != "reinforcement":
        raise Invalid(
            "only reinforcement fine-tuning is implemented: method.type must be reinforcement", param="method.type"
        )
    for other in ("supervised", "dpo"):
        if getattr(body.method, other) is not None:
            raise Invalid("does not belong to method.type reinforcement", param=f"method.{other}")
    if body.method.reinforcement is None:
        raise Invalid("required for method.type reinforcement", param="method.reinforcement")
    return body.method.reinforcement


def check_strictly(body: wire.CreateJob) -> None:
    """What Bedrock is known to refuse, or cannot know (docs/api.md)."""
    if body.suffix is not None:
        raise Invalid("Bedrock does not support suffix (--fidelity strict)", param="suffix")
    if plain(body.model) not in BEDROCK:
        raise Invalid(f"Bedrock fine-tunes {', '.join(BEDROCK)} (--fidelity strict)", param="model")
    if body.method and body.method.reinforcement and body.method.reinforcement.grpo is not None:
        raise Invalid("Bedrock has no such field (--fidelity strict)", param="method.reinforcement.grpo")


def training_file(server: Server, file_id: str, param: str) -> File:
    """A file of the right purpose and, strictly, size."""
    record = server.store.files.get(file_id)
    if record is None:
        raise Invalid(f"no file {file_id[:100]!r}", param=param, code="file_not_found")
    if record.purpose != "fine-tune":
        raise Invalid(f"the file's purpose is {record.purpose}, expected fine-tune", param=param)
    if server.settings.strict and param == "training_file" and not FEWEST_ROWS <= (record.rows or 0) <= MOST_ROWS:
        raise Invalid(f"Bedrock takes {FEWEST_ROWS} to {MOST_ROWS} rows (--fidelity strict)", param=param)
    return record


@router.get("/jobs")
def list_jobs(
    request: Request, server: ServerDependency, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """Newest first; ``metadata[name]=value`` filters, ``metadata=null`` finds jobs without metadata."""
    pairs = {k[9:-1]: v for k, v in request.query_params.items() if k.startswith("metadata[") and k.endswith("]")}
    without = request.query_params.get("metadata") == "null"
    found, more = server.store.jobs.page(after=after, limit=limit, metadata=pairs, without_metadata=without)
    return wire.page([wire.job(record) for record in found], more)


@router.get("/jobs/{job_id}")
def retrieve(job_id: str, server: ServerDependency) -> dict[str, Any]:
    """One job."""
    return wire.job(find(server, job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: str, server: ServerDependency) -> dict[str, Any]:
    """Durable when this answers; the training ends within seconds. Cancelling twice is no error."""
    return bring(server, job_id, CANCELLED)


@router.post("/jobs/{job_id}/pause")
def pause(job_id: str, server: ServerDependency) -> dict[str, Any]:
    """Durable when this answers; the job keeps its last complete step."""
    return bring(server, job_id, PAUSED)


@router.post("/jobs/{job_id}/resume")
def resume(job_id: str, server: ServerDependency) -> dict[str, Any]:
    """Back into the queue, to go on from the last complete step."""
    return bring(server, job_id, QUEUED)


def bring(server: Server, job_id: str, status: str) -> dict[str, Any]:
    """Move a job and have it carried out at once."""
    moved = transitions.bring(server.store, job_id, status)
    server.supervisor.wake()
    return wire.job(moved)


@router.get("/jobs/{job_id}/events")
def list_events(job_id: str, server: ServerDependency, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """Newest first, as at OpenAI."""
    record = find(server, job_id)
    found, more = server.store.log.events(record.id, after=after, limit=limit)
    return wire.page([wire.event(entry) for entry in found], more)


@router.get("/jobs/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, server: ServerDependency, after: str | None = None, limit: Limit = 10
) -> dict[str, Any]:
    """Newest first; each is complete, and a model to call."""
    record = find(server, job_id)
    found, more = server.store.log.checkpoints(record.id, after=after, limit=limit)
    return wire.page([wire.checkpoint(entry) for entry in found], more)


def find(server: Server, job_id: str) -> Job:
    """The record, or NotFound."""
    record = server.store.jobs.get(job_id)
    if record is None:
        raise NotFound(f"no job {job_id[:100]!r}", param="fine_tuning_job_id")
    return record
