"""Runs the jobs: validates new ones, starts queued ones, follows the running, ends what should not run.

One thread, one tick after the other. A tick looks at the store and at the processes, and does what is missing; so
after a restart the first tick picks up everything. Nothing here is timed out: a job whose machine slept is healthy.
Touches: processes, disk.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError

from grpo import manifest
from grpo.errors import FAILS_AGAIN, MAY_PASS
from grpo.server.projection import Projection, base_name, event, tuned_model
from grpo.server.records import FAILED, PAUSED, QUEUED, RUNNING, SUCCEEDED, VALIDATING, Event, Job
from grpo.server.settings import DataDirectory, Settings
from grpo.server.store import Store
from grpo.server.worker import Worker, fenced

POLL_S = 0.2
MOST_CRASHES = 5
"""In a row without a step; then the job has failed."""
LONGEST_WAIT_S = 60.0
FAILURES = ("no_signal", "collapsed")
"""Verdicts that are no success."""

log = structlog.get_logger()


@dataclass(slots=True)
class Failures:
    """Of a job's workers, since its last step."""

    times: int = 0
    crashes: int = 0
    told: str = ""
    """The reason that was told last."""


class Supervisor:
    """The jobs of one data directory; there is one supervisor for each."""

    def __init__(self, store: Store, data: DataDirectory, settings: Settings) -> None:
        self.store, self.data, self.settings = store, data, settings
        self.projection = Projection(store, data)
        self.workers: dict[str, Worker] = {}
        self._steps: dict[str, int] = {}
        self._failures: dict[str, Failures] = {}
        self._not_before: dict[str, float] = {}
        self._wake = threading.Event()
        self._turn = threading.Lock()
        self._closing = False
        self.ended: list[Callable[[Job], None]] = []
        """Called with each job that has come to its end, in the supervisor's thread."""
        self._thread = threading.Thread(target=self._run, name="supervisor")

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def close(self) -> None:
        """End every worker and wait for them; their jobs go on at the next start. May be called again."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        for worker in self.workers.values():
            worker.stop()
        while any(worker.poll() is None for worker in self.workers.values()):
            for worker in self.workers.values():
                worker.stop()
            time.sleep(0.05)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            if not self._closing:  # a server without its supervisor would take jobs and never run them
                log.critical("the supervisor failed; the server ends")
                os.kill(os.getpid(), signal.SIGTERM)

    def _work(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                with self._turn:
                    self.tick()
            except (OSError, OperationalError) as error:  # a full disk: the jobs wait, the server answers
                log.error("supervisor", error=str(error).splitlines()[0])
                self._wake.wait(2.0)
            self._wake.wait(POLL_S)

    def still(self) -> threading.Lock:
        """To hold while no worker may be started: as long as it is held there is no tick."""
        return self._turn

    def tick(self) -> None:
        """Bring processes and store together."""
        self._expire()
        for job in self.store.jobs.with_status(VALIDATING):
            self._apart(job, self._validate)
        wanted = {job.id: job for job in self.store.jobs.with_status(RUNNING)}
        for job_id in list(self.workers):
            owner = wanted.get(job_id) or self.store.jobs.get(job_id)
            assert owner is not None
            self._apart(owner, self._tend)
        for job in wanted.values():
            if job.id not in self.workers and time.monotonic() >= self._not_before.get(job.id, 0.0):
                self._apart(job, self._launch)
        free = self.settings.concurrent_jobs - len(wanted.keys() | self.workers.keys())
        # a job that was paused and resumed waits until its worker has ended
        queued = [job for job in self.store.jobs.with_status(QUEUED) if job.id not in self.workers]
        for job in queued[: max(0, free)]:
            self._apart(job, self._begin)

    def _apart(self, job: Job, action: Callable[[Job], None]) -> None:
        """Do something for one job; what goes wrong in it is that job's, not the others'."""
        try:
            action(job)
        except (OSError, OperationalError) as error:  # a full disk, most often: the job waits
            log.error("job", job=job.id, error=str(error).splitlines()[0])
        except Exception as error:
            log.exception("job", job=job.id)
            if job.status == RUNNING:
                problem = {"code": "internal_error", "message": f"an error of the server: {error!r}", "param": None}
                self._finish(job, FAILED, error=problem)

    def _expire(self) -> None:
        needed = self.store.jobs.files_in_use((VALIDATING, QUEUED, RUNNING, PAUSED))
        for file_id in self.store.files.expired(int(time.time())):
            if file_id not in needed:
                self.store.files.delete(file_id)
                self.data.file(file_id).unlink(missing_ok=True)

    def _validate(self, job: Job) -> None:
        """The files' lines were checked when they were uploaded, and do not change."""
        for name, file in (("training_file", job.training_file), ("validation_file", job.validation_file)):
            if file and not self.data.file(file).is_file():
                problem = {"code": "invalid_training_file", "message": f"{file} was deleted", "param": name}
                self._finish(job, FAILED, error=problem)
                return
        told = {"queued": event(job, "Files validated, moving job to queued state")}
        self.store.jobs.move(job, QUEUED, told=told)

    def _begin(self, job: Job) -> None:
        first = job.started_at is None
        told = {"started": event(job, "Fine-tuning job started")} if first else {}
        moved = self.store.jobs.move(job, RUNNING, told=told, started_at=job.started_at or int(time.time()))
        if moved:
            self._launch(moved)

    def _launch(self, job: Job) -> None:
        directory = self.data.jobs / job.id
        if not fenced(directory / "run"):
            return
        self._steps[job.id] = self.store.log.steps_told(job.id)
        numbered = self.store.jobs.begin_attempt(job)
        if numbered:
            self.workers[job.id] = Worker(numbered, directory, self.settings.worker_processes)
            log.info("worker started", job=job.id, attempt=numbered.attempt, pid=self.workers[job.id].pid)

    def _tend(self, job: Job) -> None:
        """Follow a worker whose job should run; end one whose job should not."""
        worker = self.workers[job.id]
        if job.status != RUNNING:
            worker.stop()
        code = worker.poll()
        if self.projection.follow(job) > self._steps[job.id]:
            self._failures.pop(job.id, None)
        if code is None:
            return
        del self.workers[job.id]
        log.info("worker ended", job=job.id, attempt=worker.attempt, code=code)
        if job.status != RUNNING:
            return
        if code == 0:
            self._conclude(job)
        elif code == FAILS_AGAIN:
            self._finish(job, FAILED, error={"code": "training_failed", "message": self._said(worker), "param": None})
        else:
            self._again(job, code, self._said(worker))

    def _said(self, worker: Worker) -> str:
        """What a worker said at its end; files by their ids, not by where they lie."""
        return worker.message().replace(f"{self.data.files}/", "")

    def _again(self, job: Job, code: int, message: str) -> None:
        """Start the training again, a little later each time; give up a crash that comes again without a step."""
        failures = self._failures.setdefault(job.id, Failures())
        reason = message if code == MAY_PASS else f"the training ended with code {code}"
        failures.crashes += code != MAY_PASS
        failures.times += 1
        if failures.crashes >= MOST_CRASHES:
            text = f"the training ended {failures.crashes} times without a step, last with code {code}: {message}"
            self._finish(job, FAILED, error={"code": "worker_failed", "message": text, "param": None})
            return
        self._not_before[job.id] = time.monotonic() + min(LONGEST_WAIT_S, 0.25 * 2**failures.times)
        if reason != failures.told:
            failures.told = reason
            text = f"Interrupted, going on from the last complete step: {reason}"
            self.store.log.add({f"interrupted-{job.attempt}": event(job, text, level="warn")})

    def _conclude(self, job: Job) -> None:
        """The run is over by its own verdict: its result becomes the job's."""
        run = self.data.run(job.id)
        outcome: dict[str, Any] = json.loads((run / "result.json").read_text())
        verdict = {"status": outcome["verdict"], "reason": outcome["reason"], "steps": outcome["steps"]}
        tokens = sum(record["trained_tokens"] for record in self.projection.records(job))
        if outcome["verdict"] in FAILURES:
            error = {"code": outcome["verdict"], "message": outcome["reason"], "param": None}
            self._finish(job, FAILED, error=error, verdict=verdict, trained_tokens=tokens)
            return
        made = []
        if outcome["adapter"]:
            step = int(outcome["adapter"].rpartition("_")[2])
            made = [tuned_model(job, c, base_name(job)) for c in manifest.complete(run) if c.step == step]
            if not made:
                raise FileNotFoundError(f"{run}: checkpoint {step}, which the run chose, is gone")
        name = made[0].id if made else None
        self._finish(job, SUCCEEDED, models=made, verdict=verdict, fine_tuned_model=name, trained_tokens=tokens)

    def _finish(self, job: Job, status: str, **changes: Any) -> None:
        told: dict[str, Event] = {}
        if verdict := changes.get("verdict"):
            text = f"Stopped after step {verdict['steps']}: {verdict['status']}. {verdict['reason']}"
            told["verdict"] = event(job, text, data=verdict)
        if status == SUCCEEDED:
            model = changes.get("fine_tuned_model")
            told["model"] = event(job, f"New fine-tuned model created: {model}")
            told["end"] = event(job, "The job has successfully completed")
        else:
            told["end"] = event(job, f"The job failed: {changes['error']['message']}", level="error")
        moved = self.store.jobs.move(job, status, told=told, finished_at=int(time.time()), **changes)
        if moved:
            for listener in self.ended:
                listener(moved)
