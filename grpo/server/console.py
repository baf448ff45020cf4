"""The console's runs, where they are the jobs of a server, and what can be done to them. Touches: disk."""

import tempfile
from pathlib import Path
from statistics import mean, pvariance
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from grpo.console.gate import Gate
from grpo.console.index import discard, path_of
from grpo.console.replies import answer, posted
from grpo.console.run_view import RunView
from grpo.console.server import pages_alone
from grpo.server.context import Server
from grpo.server.errors import ApiError
from grpo.server.records import FAILED, SUCCEEDED, Job
from grpo.server.removal import remove
from grpo.server.settings import DataDirectory
from grpo.server.store import Store
from grpo.server.trial import Tried, try_all

MOST_JOBS = 1000
MOST_SAMPLES, LONGEST_LOG = 64, 4000


class Sample(BaseModel):
    """A row of a training file with what a model might answer."""

    model_config = ConfigDict(extra="allow")

    completion: str = Field(max_length=1_000_000)


class Attempt(BaseModel):
    """A reward function, tried on samples."""

    model_config = ConfigDict(extra="forbid")

    function: str = Field(max_length=512)
    samples: list[Sample] = Field(min_length=1, max_length=MOST_SAMPLES)


class JobRuns:
    """Every job's run directory, under the job's id."""

    def __init__(self, store: Store, data: DataDirectory) -> None:
        self.store, self.data, self.cache = store, data, data.root / "console" / "runs"
        self._views: dict[str, RunView] = {}

    def place(self) -> dict[str, Any]:
        """The reward functions by name, newest last."""
        return {"server": True, "functions": [function.name for function in self.store.functions.all()]}

    def runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        jobs, _ = self.store.jobs.page(after=None, limit=MOST_JOBS, metadata=None)
        return [self._summary(job) for job in jobs]

    def summary(self, run_id: str) -> dict[str, Any] | None:
        """Of one job."""
        job = self.store.jobs.get(run_id)
        return self._summary(job) if job else None

    def run(self, run_id: str) -> RunView | None:
        """By its job's id."""
        job = self.store.jobs.get(run_id)
        return self._view(job.id) if job else None

    def forget(self, run_id: str) -> None:
        """Of a job that was removed: what is kept of its completions."""
        self._views.pop(run_id, None)
        discard(path_of(self.cache, self.data.run(run_id)))

    def _summary(self, job: Job) -> dict[str, Any]:
        told = self._view(job.id).summary()
        verdict, error = job.verdict or {}, job.error or {}
        return told | {
            "id": job.id,
            "name": job.suffix or job.id,
            "model": job.model,
            "created_at": job.created_at,
            "total_steps": job.total_steps,
            "job": job.status,
            "tuned": job.fine_tuned_model,
            "status": verdict.get("status", job.status) if job.status == SUCCEEDED else job.status,
            "reason": error.get("message") if job.status == FAILED else verdict.get("reason"),
        }

    def _view(self, job_id: str) -> RunView:
        return self._views.setdefault(job_id, RunView(self.data.run(job_id), self.cache))


class Deeds:
    """What the pages can do beside OpenAI's API, which they call for the rest."""

    def __init__(self, server: Server, runs: JobRuns) -> None:
        self.server, self.runs = server, runs

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/console/api/runs/{run}", self.delete, methods=["DELETE"]),
            Route("/console/api/attempts", self.attempt, methods=["POST"]),
        ]

    async def delete(self, request: Request) -> Response:
        """A job that has ended, with all that it made."""
        try:
            job = await run_in_threadpool(remove, self.server, request.path_params["run"])
        except ApiError as error:
            raise HTTPException(error.status, str(error)) from None
        await run_in_threadpool(self.runs.forget, job.id)
        return answer({"id": job.id, "deleted": True})

    async def attempt(self, request: Request) -> Response:
        """A reward function on samples, before a job depends on it."""
        try:
            asked = Attempt.model_validate(await posted(request))
            return answer(await run_in_threadpool(self._tried, asked))
        except ValidationError as error:
            first = error.errors()[0]
            raise HTTPException(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ApiError as error:
            raise HTTPException(error.status, f"{error.param}: {error}" if error.param else str(error)) from None

    def _tried(self, asked: Attempt) -> dict[str, Any]:
        section = self.server.graders.reward({"type": "lambda", "lambda": {"function": asked.function}}, "grader")
        samples = [(one.completion, one.model_dump(exclude={"completion"})) for one in asked.samples]
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "reward.log"
            tried = try_all(section, samples, log)
            printed = log.read_text(errors="replace")[-LONGEST_LOG:] if log.exists() else ""
        return described(tried) | {"printed": printed, "error": self._hidden(tried.error)}

    def _hidden(self, text: str | None) -> str | None:
        """Without the place of the data directory."""
        return text.replace(str(self.server.data.root), "") if text else text


def described(tried: Tried) -> dict[str, Any]:
    """Each score, and what they have in common."""
    values = [trial.reward.value for trial in tried.trials if trial.reward.value is not None]
    seconds = sorted(trial.seconds for trial in tried.trials)
    return {
        "sandbox": tried.sandbox,
        "scores": [
            {
                "reward": trial.reward.value,
                "parts": trial.reward.parts,
                "error": trial.reward.error,
                "seconds": round(trial.seconds, 4),
            }
            for trial in tried.trials
        ],
        "mean": mean(values) if values else None,
        "variance": pvariance(values) if values else None,
        "failed": len(tried.trials) - len(values),
        "seconds_median": seconds[len(seconds) // 2] if seconds else None,
        "seconds_most": seconds[-1] if seconds else None,
    }


def application(server: Server, gate: Gate) -> Starlette:
    """The pages; who may see them is the guard's business."""
    runs = JobRuns(server.store, server.data)
    return pages_alone(runs, gate, Deeds(server, runs).routes())
