"""What a job's reward function printed, as lines of its log group, beside those of single calls. Touches: disk (read).

A run keeps them in reward.log, without times: a line has the time at which it was found here.
"""

import time
from pathlib import Path

from grpo.server.records import Job, LogLine
from grpo.server.settings import DataDirectory
from grpo.server.store import Store

MOST_JOBS = 1000


class Prints:
    """Brings what is new in the runs' logs into the store; asked for whenever logs are read."""

    def __init__(self, store: Store, data: DataDirectory) -> None:
        self.store, self.data = store, data
        self._seen: dict[str, int] = {}

    def follow(self) -> None:
        """Of the newest jobs."""
        jobs, _ = self.store.jobs.page(after=None, limit=MOST_JOBS, metadata=None)
        for job in jobs:
            name, path = function_of(job), self.data.run(job.id) / "reward.log"
            size = path.stat().st_size if name and path.exists() else 0
            if name and size > self._seen.get(job.id, 0):
                self._take(job, name, path)
                self._seen[job.id] = size

    def _take(self, job: Job, name: str, path: Path) -> None:
        group, stream = f"/aws/lambda/{name}", f"job/{job.id}"
        lines = path.read_bytes().decode(errors="replace").split("\n")[:-1]  # the last may still be written
        new, now = lines[self.store.lines.count(group, stream) :], int(time.time() * 1000)
        self.store.lines.add(LogLine(group=group, stream=stream, at_ms=now, message=line) for line in new)


def function_of(job: Job) -> str | None:
    """The name of its reward function; None of one that is called by URL."""
    named: str = job.method["reinforcement"]["grader"]["lambda"]["function"]
    return None if "://" in named else named.partition(":function:")[2].partition(":")[0] or named
