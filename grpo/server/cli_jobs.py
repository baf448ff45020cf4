"""``grpo jobs``, ``grpo events``, ``grpo completions``: a job's life from the command line.

They read and write the data directory itself, so they need no key and work whether a server runs or not.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grpo.errors import ConfigError, printable

if TYPE_CHECKING:
    from grpo.server.records import Job
    from grpo.server.settings import DataDirectory
    from grpo.server.store import Store

jobs = typer.Typer(no_args_is_help=True, help="Fine-tuning jobs of the data directory.")

DataDir = Annotated[Path | None, typer.Option(help="Default: GRPO_DATA_DIR, else the user's data directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
JobId = Annotated[str, typer.Argument(help="A job's id, or its beginning.")]
POLL_S = 0.5


def events(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """A job's log, oldest first."""
    store, _ = open_data(data_dir)
    record = find_job(store, job)
    for event in _events(store, record.id, follow):
        if as_json:
            print(json.dumps(asdict(event)), flush=True)
        else:
            when = time.strftime("%H:%M:%S", time.localtime(event.created_at))
            reward = f"  reward {event.data['critic_rewards_mean']}" if event.type == "metrics" and event.data else ""
            print(printable(f"{when}  {event.level:<5}  {event.message}{reward}"), flush=True)


def completions(
    job: JobId,
    step: Annotated[int, typer.Option(help="From 1, as in the events.", min=1)],
    min_reward: Annotated[float | None, typer.Option(help="Leave out what scored less.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Every completion of one step, with its reward."""
    from grpo.runlog import RunLog

    store, data = open_data(data_dir)
    record = find_job(store, job)
    groups = RunLog(data.run(record.id)).load_rollouts(step - 1)
    if groups is None:
        raise ConfigError(f"job {record.id} has no step {step} yet")
    for group in groups:
        for completion, reward in zip(group.completions, group.rewards, strict=True):
            if min_reward is not None and (reward.value is None or reward.value < min_reward):
                continue
            prompt = str(group.prompt.messages[-1]["content"])
            if as_json:
                row = {"prompt": prompt, "completion": completion.text, "reward": reward.value, "error": reward.error}
                row |= {"reasoning": completion.reasoning} if completion.reasoning else {}
                print(json.dumps(row | {"finish_reason": completion.finish_reason, "parts": reward.parts}))
            else:
                score = "not scored" if reward.value is None else f"{reward.value:g}"
                print(printable(f"[{score}] {prompt}\n    {completion.text.strip()}"))


@jobs.command("ls")
def list_jobs(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All jobs, newest first."""
    store, _ = open_data(data_dir)
    found, _more = store.jobs.page(after=None, limit=10_000, metadata=None)
    if as_json:
        print(json.dumps([_summary(store, job) for job in found]))
        return
    for job in found:
        row = _summary(store, job)
        print(f"{row['id']}  {row['status']:<16} {row['step']:>4}/{row['total_steps']:<4} {row['model']}")


@jobs.command("show")
def show_job(job: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One job with everything known of it."""
    store, _ = open_data(data_dir)
    row = _summary(store, find_job(store, job))
    if as_json:
        print(json.dumps(row))
        return
    for name, value in row.items():
        print(printable(f"{name:<18} {value}"))


@jobs.command("cancel")
def cancel(job: JobId, data_dir: DataDir = None) -> None:
    """End a job; its checkpoints stay."""
    _bring(job, data_dir, "cancelled")


@jobs.command("pause")
def pause(job: JobId, data_dir: DataDir = None) -> None:
    """Stop a job after its last complete step."""
    _bring(job, data_dir, "paused")


@jobs.command("resume")
def resume(job: JobId, data_dir: DataDir = None) -> None:
    """Put a paused job back into the queue."""
    _bring(job, data_dir, "queued")


def open_data(data_dir: Path | None) -> "tuple[Store, DataDirectory]":
    """The data directory, created where there is none. Raises StoreError."""
    from grpo.server.settings import DataDirectory, Settings
    from grpo.server.store import Database, Store

    settings = Settings(data_dir=data_dir) if data_dir else Settings()
    data = DataDirectory(settings.data_dir)
    return Store(Database(data.database)), data


def find_job(store: "Store", beginning: str) -> "Job":
    """The one job whose id begins so, or with this name or ARN of Bedrock's own API. Raises ConfigError."""
    told = store.customizations.named(beginning)
    exact = store.jobs.get(told.job_id if told else beginning)
    if exact:
        return exact
    beginning = beginning.rpartition("/")[2] if beginning.startswith("arn:") else beginning
    everything, _ = store.jobs.page(after=None, limit=10_000, metadata=None)
    found = [job for job in everything if job.id.startswith((beginning, f"ftjob-{beginning}"))]
    if len(found) != 1:
        raise ConfigError(f"{beginning}: {len(found)} jobs begin so; `grpo jobs ls` lists them")
    return found[0]


def _summary(store: "Store", job: "Job") -> dict[str, Any]:
    names = ("id", "status", "model", "local_model", "created_at", "started_at", "finished_at", "seed", "suffix")
    row = {name: getattr(job, name) for name in names}
    row |= {"step": store.log.steps_told(job.id), "total_steps": job.total_steps, "verdict": job.verdict}
    return row | {"error": job.error, "fine_tuned_model": job.fine_tuned_model, "attempt": job.attempt}


def _events(store: "Store", job_id: str, follow: bool) -> "Iterator[Any]":
    from grpo.server.records import TERMINAL

    after = None
    while True:
        job = store.jobs.get(job_id)
        found, more = store.log.events(job_id, after=after, limit=500, newest_first=False)
        yield from found
        after = found[-1].id if found else after
        if not more and not found and (not follow or (job and job.status in TERMINAL)):
            return
        if not found:
            time.sleep(POLL_S)


def _bring(beginning: str, data_dir: Path | None, status: str) -> None:
    from grpo.server.errors import ApiError
    from grpo.server.transitions import bring

    store, _ = open_data(data_dir)
    try:
        job = bring(store, find_job(store, beginning).id, status)
    except ApiError as error:
        raise ConfigError(str(error)) from None
    print(f"{job.id}  {job.status}")
