"""What a person may do to a job: cancel, pause, resume. Durable when it returns; the supervisor carries it out."""

import time
import uuid
from typing import Any

from grpo.server.errors import Conflict, NotFound
from grpo.server.projection import event
from grpo.server.records import CANCELLED, PAUSED, QUEUED, RUNNING, TERMINAL, VALIDATING, Event, Job
from grpo.server.store import Store

FROM = {
    CANCELLED: (VALIDATING, QUEUED, RUNNING, PAUSED),
    PAUSED: (QUEUED, RUNNING),
    QUEUED: (PAUSED,),
}
TEXT = {CANCELLED: "Job cancelled", PAUSED: "Job paused", QUEUED: "Job resumed"}


def bring(store: Store, job_id: str, status: str) -> Job:
    """Move a job to ``status``, whatever it does meanwhile; nothing to do where it is there already.

    Raises NotFound, and Conflict from a state that it cannot leave so.
    """
    while True:
        job = store.jobs.get(job_id)
        if job is None:
            raise NotFound(f"no job {job_id[:100]!r}", param="fine_tuning_job_id")
        if job.status == status:
            return job
        if job.status not in FROM[status]:
            raise Conflict(f"the job is {job.status}; only one that is {' or '.join(FROM[status])} can become {status}")
        finished: dict[str, Any] = {"finished_at": int(time.time())} if status in TERMINAL else {}
        moved = store.jobs.move(job, status, told=_told(job, status), **finished)
        if moved:
            return moved


def _told(job: Job, status: str) -> dict[str, Event]:
    return {f"{status}-{uuid.uuid4().hex}": event(job, TEXT[status])}
