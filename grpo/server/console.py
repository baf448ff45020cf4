"""The console's runs, where they are the jobs of a server. Touches: disk (read)."""

from typing import Any

from starlette.applications import Starlette

from grpo.console.gate import Gate
from grpo.console.run_view import RunView
from grpo.console.server import pages_alone
from grpo.server.records import FAILED, SUCCEEDED, Job
from grpo.server.settings import DataDirectory
from grpo.server.store import Store

MOST_JOBS = 1000


class JobRuns:
    """Every job's run directory, under the job's id."""

    def __init__(self, store: Store, data: DataDirectory) -> None:
        self.store, self.data = store, data
        self._views: dict[str, RunView] = {}

    def runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        jobs, _ = self.store.jobs.page(after=None, limit=MOST_JOBS, metadata=None)
        return [self._summary(job) for job in jobs]

    def run(self, run_id: str) -> RunView | None:
        """By its job's id."""
        job = self.store.jobs.get(run_id)
        return self._view(job.id) if job else None

    def _summary(self, job: Job) -> dict[str, Any]:
        told = self._view(job.id).summary()
        verdict, error = job.verdict or {}, job.error or {}
        return told | {
            "id": job.id,
            "name": job.suffix or job.id,
            "model": job.model,
            "created_at": job.created_at,
            "total_steps": job.total_steps,
            "status": verdict.get("status", job.status) if job.status == SUCCEEDED else job.status,
            "reason": error.get("message") if job.status == FAILED else verdict.get("reason"),
        }

    def _view(self, job_id: str) -> RunView:
        return self._views.setdefault(job_id, RunView(self.data.run(job_id)))


def application(store: Store, data: DataDirectory, gate: Gate) -> Starlette:
    """The pages; who may see them is the guard's business."""
    return pages_alone(JobRuns(store, data), gate)
