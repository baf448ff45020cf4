"""A job taken away with all that it made: its run directory, its models, its names. For those that have ended."""

import shutil

from grpo.server.aws import names
from grpo.server.context import Server
from grpo.server.errors import Conflict, NotFound
from grpo.server.records import TERMINAL, Job


def remove(server: Server, job_id: str) -> Job:
    """Its record goes first: what a crash leaves behind is a directory that nothing refers to.

    Raises NotFound, and Conflict for a job that runs, or whose model is deployed.
    """
    with server.supervisor.still():
        job = _forget(server, job_id)
    if (server.data.jobs / job.id).exists():  # one that was cancelled while it waited has none
        shutil.rmtree(server.data.jobs / job.id)
    return job


def _forget(server: Server, job_id: str) -> Job:
    job = server.store.jobs.get(job_id)
    if job is None:
        raise NotFound(f"no job {job_id[:100]!r}")
    if job.status not in TERMINAL:
        raise Conflict(f"the job is {job.status}: cancel it first")
    if job.id in server.supervisor.workers:
        raise Conflict("the job's training is just about to end: try again in some seconds")
    for deployment in server.store.deployments.all():
        if names.ends_with(deployment.model_arn) == names.short(job):
            raise Conflict(f"its model is deployed as {deployment.name}: delete the deployment first")
    server.store.jobs.remove(job.id)
    return job
