"""Bedrock's customization jobs: the server's jobs under Amazon's names.

docs.aws.amazon.com/bedrock/latest/APIReference, CreateModelCustomizationJob and the operations beside it.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from grpo.server import transitions
from grpo.server.aws import names
from grpo.server.aws.customization import Intake
from grpo.server.aws.errors import AwsError, invalid
from grpo.server.aws.wire import Call
from grpo.server.context import Server
from grpo.server.records import CANCELLED, FAILED, PAUSED, QUEUED, RUNNING, SUCCEEDED, VALIDATING, Customization, Job

Given = dict[str, Any]
STATUS = {
    VALIDATING: "InProgress",
    QUEUED: "InProgress",
    RUNNING: "InProgress",
    PAUSED: "InProgress",
    SUCCEEDED: "Completed",
    FAILED: "Failed",
    CANCELLED: "Stopped",
}
MOST_JOBS = 1000


class Jobs:
    """The customization jobs of one server, those that came through the OpenAI API included."""

    def __init__(self, server: Server, intake: Intake) -> None:
        self.server, self.store, self.intake = server, server.store, intake
        self._creating = threading.Lock()  # names are unique: one request at a time looks and adds

    def operations(self) -> Mapping[str, Callable[[Call], Given]]:
        """By their names in the service's model."""
        return {
            "CreateModelCustomizationJob": self.create,
            "GetModelCustomizationJob": self.get,
            "ListModelCustomizationJobs": self.list_jobs,
            "StopModelCustomizationJob": self.stop,
        }

    def create(self, call: Call) -> Given:
        """The job is there when this answers; the same clientRequestToken makes one job, however often it is sent."""
        given = call.given
        token = given.get("clientRequestToken")
        request = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()
        with self._creating:
            try:
                made = self.store.jobs.made_before(f"aws:{token}", request) if token else None
                job = made or self._new(call, f"aws:{token}" if token else None, request)
            except ValueError:
                raise AwsError("ConflictException", "this clientRequestToken was used with another request") from None
        self.server.supervisor.wake()
        return {"jobArn": names.job_arn(job, call.region)}

    def _new(self, call: Call, key: str | None, request: str) -> Job:
        name, model_name = call.given["jobName"], call.given["customModelName"]
        if self.store.customizations.named(name):
            raise AwsError("ConflictException", f"a job {name!r} is there already")
        self._release(model_name)
        job = self.intake.job(call.given)
        stored = self.store.jobs.add(job, key, request)
        self.store.customizations.add(
            Customization(job_id=job.id, name=name, model_name=model_name, region=call.region, request=call.given)
        )
        for arn, tags in (
            (names.job_arn(job, call.region), "jobTags"),
            (names.model_arn(job, call.region), "customModelTags"),
        ):
            self.store.tags.put(arn, {tag["key"]: tag["value"] for tag in call.given.get(tags, [])})
        return stored

    def _release(self, model_name: str) -> None:
        """Have a name that no model has, and none will have. Raises AwsError."""
        there = self.store.customizations.model_named(model_name)
        job = self.store.jobs.get(there.job_id) if there else None
        if job and job.status not in (FAILED, CANCELLED):
            raise AwsError("ConflictException", f"a custom model {model_name!r} is there already, or is being made")
        if job:
            self.store.customizations.release(job.id)

    def get(self, call: Call) -> Given:
        job, told = self.find(call.given["jobIdentifier"])
        return self.described(job, told, call.region)

    def list_jobs(self, call: Call) -> Given:
        given, by_job = call.given, self.store.customizations.all()
        found = [self.described(job, by_job.get(job.id), call.region) for job in self.newest()]
        return page(
            [summary(one) for one in found if chosen(one, given, "jobName", "creationTime", "status")],
            given,
            "modelCustomizationJobSummaries",
        )

    def newest(self) -> list[Job]:
        """All jobs."""
        jobs, after = [], None
        while True:
            some, more = self.store.jobs.page(after=after, limit=MOST_JOBS, metadata=None)
            jobs += some
            if not more:
                return jobs
            after = some[-1].id

    def stop(self, call: Call) -> Given:
        job, _ = self.find(call.given["jobIdentifier"])
        if STATUS[job.status] in ("Completed", "Failed", "Stopped"):
            raise AwsError("ConflictException", f"the job is {STATUS[job.status]}; it cannot be stopped")
        transitions.bring(self.store, job.id, CANCELLED)
        self.server.supervisor.wake()
        return {}

    def find(self, identifier: str) -> tuple[Job, Customization | None]:
        """A job by its ARN, its name, or the id it has in the OpenAI API. Raises AwsError."""
        end = names.ends_with(identifier)
        told = None if end else self.store.customizations.named(identifier)
        job_id = told.job_id if told else identifier
        job = self.store.jobs.beginning(f"ftjob-{end}") if end else self.store.jobs.get(job_id)
        if job is None:
            raise AwsError("ResourceNotFoundException", f"no customization job {identifier[:200]!r}", 404)
        return job, told or self.store.customizations.all().get(job.id)

    def described(self, job: Job, told: Customization | None, region: str) -> Given:
        """The whole answer of GetModelCustomizationJob; a job that came through the OpenAI API has no roles or URIs."""
        asked = told.request if told else {}
        status = self.status(job)
        ended = {"endTime": when(job.finished_at)} if job.finished_at else {}
        made = {"outputModelArn": names.model_arn(job, region)} if job.fine_tuned_model else {}
        message = str(job.error["message"]) if job.error else ""
        if told:  # the names of files are the caller's
            message = message.replace(job.training_file, asked["trainingDataConfig"]["s3Uri"])
        failure = {"failureMessage": message[:2048]} if job.error else {}
        return {
            "jobArn": names.job_arn(job, region),
            "jobName": told.name if told else job.id,
            "outputModelName": told.request["customModelName"] if told else short_name(job),
            "clientRequestToken": asked.get("clientRequestToken"),
            "roleArn": asked.get("roleArn", f"arn:aws:iam::{names.ACCOUNT}:role/local"),
            "status": status,
            "statusDetails": details(job, status),
            "creationTime": when(job.created_at),
            "lastModifiedTime": when(job.finished_at or job.started_at or job.created_at),
            "baseModelArn": names.foundation_arn(job.model, region),
            "hyperParameters": {},
            "trainingDataConfig": asked.get("trainingDataConfig", {"s3Uri": f"s3://local/{job.training_file}"}),
            "validationDataConfig": asked.get("validationDataConfig", {"validators": []}),
            "outputDataConfig": asked.get("outputDataConfig", {"s3Uri": f"s3://local/{job.id}/"}),
            "customizationType": "REINFORCEMENT_FINE_TUNING",
            "customizationConfig": asked.get("customizationConfig"),
            **self._losses(job),
            **ended,
            **made,
            **failure,
        }

    def _losses(self, job: Job) -> Given:
        records = self.server.supervisor.projection.records(job) if job.status == SUCCEEDED else []
        return {"trainingMetrics": {"trainingLoss": records[-1]["actor_pg_loss"]}} if records else {}

    def status(self, job: Job) -> str:
        """Bedrock's word; a job that was cancelled is stopping while its worker ends."""
        ending = job.status == CANCELLED and job.id in self.server.supervisor.workers
        return "Stopping" if ending else STATUS[job.status]


def details(job: Job, status: str) -> Given:
    """How far validation and training are."""
    begun, created = job.started_at is not None, when(job.created_at)
    checked = job.status != VALIDATING
    training = status if begun else ("NotStarted" if status == "InProgress" else status)
    data = "Completed" if checked else "InProgress"
    modified = when(job.finished_at or job.started_at or job.created_at)
    return {
        "validationDetails": {"status": data, "creationTime": created, "lastModifiedTime": created},
        "dataProcessingDetails": {"status": data, "creationTime": created, "lastModifiedTime": created},
        "trainingDetails": {
            "status": training,
            "creationTime": when(job.started_at or job.created_at),
            "lastModifiedTime": modified,
        },
    }


def summary(described: Given) -> Given:
    """A job's entry in a list."""
    kept = ("jobArn", "baseModelArn", "jobName", "status", "statusDetails", "lastModifiedTime", "creationTime")
    model = {"customModelName": described["outputModelName"]}
    for name, theirs in (("endTime", "endTime"), ("outputModelArn", "customModelArn")):
        if name in described:
            model[theirs] = described[name]
    return {name: described[name] for name in (*kept, "customizationType")} | model


def chosen(entry: Given, given: Given, name: str, created: str, status: str) -> bool:
    """Whether an entry passes a list's filters."""
    after, before = given.get("creationTimeAfter"), given.get("creationTimeBefore")
    return (
        given.get("nameContains", "") in entry[name]
        and given.get("statusEquals", entry.get(status)) == entry.get(status)
        and (after is None or entry[created] > after)
        and (before is None or entry[created] < before)
    )


def page(entries: list[Given], given: Given, envelope: str) -> Given:
    """Entries that come newest first, in the order and the pages that were asked for. Raises AwsError."""
    ordered = entries[::-1] if given.get("sortOrder") == "Ascending" else entries
    token = given.get("nextToken", "0")
    if not (token.isascii() and token.isdigit() and len(token) < 10):
        raise invalid("the nextToken is not one of this list's")
    start, most = int(token), given.get("maxResults", 100)
    more = {"nextToken": str(start + most)} if start + most < len(ordered) else {}
    return {envelope: ordered[start : start + most]} | more


def short_name(job: Job) -> str:
    """Of the model of a job that was given none."""
    return f"local-{names.short(job)}"


def when(seconds: int | None = None) -> datetime:
    """As moto's serialisers want times; now, where there is none."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).replace(tzinfo=None)
