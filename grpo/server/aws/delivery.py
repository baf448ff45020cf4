"""What a job leaves under its outputDataConfig: metrics, events, result, and the adapter. Touches: disk.

Bedrock's own layout there is not published.
"""

import json
import time
from pathlib import Path

from grpo.server.aws.blobs import Blobs
from grpo.server.context import Server
from grpo.server.projection import event
from grpo.server.records import SUCCEEDED, Customization, Job, Object

LAST = "result.json"
FILES = ("metrics.jsonl", "events.jsonl", LAST)
"""Put after the adapter, in this order: where the last one is, all is there."""


class Delivery:
    """Copies results of jobs into their buckets, once each."""

    def __init__(self, server: Server, blobs: Blobs) -> None:
        self.server, self.store, self.blobs = server, server.store, blobs

    def overdue(self) -> None:
        """Those of jobs that ended while this process did."""
        for job_id in self.store.customizations.all():
            job = self.store.jobs.get(job_id)
            if job is not None:
                self.deliver(job)

    def deliver(self, job: Job) -> None:
        """What a job that succeeded left, unless it is there; an event tells where, or that its bucket is gone."""
        told = self.store.customizations.all().get(job.id)
        if told is None or job.status != SUCCEEDED:
            return
        bucket, prefix = target(told, job)
        if self.store.log.has(job.id, "delivered"):  # what its owner deleted since stays deleted
            return
        where = f"s3://{bucket}/{prefix}"
        if not self.store.objects.has_bucket(bucket):
            self.store.log.add({"undelivered": event(job, f"No results at {where}: no such bucket", level="warn")})
            return
        for name, path in self._results(job).items():
            written = self.blobs.write([path.read_bytes()])
            stored = Object(
                bucket=bucket,
                key=prefix + name,
                blob=written.name,
                bytes=written.bytes,
                etag=f'"{written.md5}"',
                content_type="application/octet-stream",
                metadata={},
                created_at=int(time.time()),
            )
            self.blobs.remove(self.store.objects.put(stored))
        self.store.log.add({"delivered": event(job, f"Results are at {where}")})

    def _results(self, job: Job) -> dict[str, Path]:
        """Name → file, in the order in which they are put."""
        run = self.server.data.run(job.id)
        adapter = json.loads((run / LAST).read_text())["adapter"]
        files = sorted((run / adapter).iterdir()) if adapter else []
        found = {f"adapter/{path.name}": path for path in files if path.is_file()}
        return found | {name: run / name for name in FILES if (run / name).is_file()}


def target(told: Customization, job: Job) -> tuple[str, str]:
    """Bucket, and the beginning of the keys."""
    bucket, _, prefix = told.request["outputDataConfig"]["s3Uri"].removeprefix("s3://").partition("/")
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    return bucket, f"{folder}{told.name}/"
