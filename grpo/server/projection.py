"""A run directory, told as events, checkpoints and models of its job.

Only steps that a checkpoint confirms are told: a worker that was killed repeats the others. Every event has a key of
its own (``metrics-12``), so that telling a run again adds nothing. Touches: disk (read).
"""

import math
import time
import uuid
from pathlib import Path
from typing import Any

from grpo import manifest
from grpo.runlog import read_lines
from grpo.server.records import Checkpoint, Event, Job, Model
from grpo.server.settings import DataDirectory
from grpo.server.store import Store

BEDROCK_KEYS = (
    "critic_rewards_mean",
    "critic_advantages_mean",
    "actor_pg_loss",
    "actor_entropy",
    "actor_grad_norm",
    "response_length_mean",
)
OF_THE_RUN = ("step", "prompts", "prompt_rewards")
"""Fields of a metrics line that are no metrics."""


class Projection:
    """Brings what the run directories hold into the store."""

    def __init__(self, store: Store, data: DataDirectory) -> None:
        self.store = store
        self.data = data

    def records(self, job: Job) -> list[dict[str, Any]]:
        """All metrics lines of a job's run."""
        return list(read_lines(self.data.run(job.id) / "metrics.jsonl"))

    def follow(self, job: Job) -> int:
        """Tell what is new in a job's run. Returns the number of steps it has for certain."""
        run = self.data.run(job.id)
        complete = manifest.complete(run)
        done = complete[-1].step if complete else 0
        told = self.store.log.steps_told(job.id)
        if done > told:
            records = [r for r in self.records(job) if told <= r["step"] < done]
            events = {f"metrics-{r['step']}": metrics_event(job, r) for r in records}
            events |= looks(job, run, told, done)
            every = job.settings["run"]["keep_every"]  # those that are kept for good; 0: none
            listed = [c for c in complete if told < c.step <= done and every and c.step % every == 0]
            metrics = {r["step"] + 1: r for r in records}
            self.store.models.add(tuned_model(job, c, f"{base_name(job)}:ckpt-step-{c.step}") for c in listed)
            self.store.log.add(events, [checkpoint(job, c.step, metrics.get(c.step, {})) for c in listed])
        return done


def event(
    job: Job, message: str, *, level: str = "info", data: dict[str, Any] | None = None, kind: str = "message"
) -> Event:
    """A new line of the job's log."""
    return Event(
        id=f"ftevent-{uuid.uuid4()}",
        job_id=job.id,
        created_at=int(time.time()),
        level=level,
        message=message,
        type=kind,
        data=data,
    )


def metrics_event(job: Job, record: dict[str, Any]) -> Event:
    """Bedrock's metrics event of one step, with the rest of the step's metrics behind its six keys."""
    step, total = record["step"] + 1, job.total_steps
    data: dict[str, Any] = {"step": step, "total_steps": total}
    data |= {name: number(record[name]) for name in BEDROCK_KEYS}
    data |= {name: number(value) for name, value in record.items() if name not in (*BEDROCK_KEYS, *OF_THE_RUN)}
    return event(job, f"Step {step}/{total}: training metrics", data=data, kind="metrics")


def looks(job: Job, run: Path, told: int, done: int) -> dict[str, Event]:
    """What the stop rule saw."""
    found = {}
    for record in read_lines(run / "events.jsonl"):
        if record["event"] == "look" and told < record["step"] <= done:
            data = {name: number(value) for name, value in record.items() if name not in ("time", "event")}
            found[f"look-{record['step']}"] = event(
                job, f"Stop rule: {record['status']}. {record['reason']}", data=data
            )
    return found


def checkpoint(job: Job, step: int, record: dict[str, Any]) -> Checkpoint:
    """The listed form of a complete checkpoint."""
    metrics: dict[str, Any] = {"step": step}
    if "critic_rewards_mean" in record:
        metrics |= {
            "train_reward_mean": number(record["critic_rewards_mean"]),
            "train_loss": number(record["actor_pg_loss"]),
        }
    if "heldout_mean" in record:
        metrics["valid_reward_mean"] = number(record["heldout_mean"])
    return Checkpoint(
        id=f"ftckpt-{uuid.uuid4().hex}",
        job_id=job.id,
        step=step,
        created_at=int(time.time()),
        model=f"{base_name(job)}:ckpt-step-{step}",
        metrics=metrics,
    )


def tuned_model(job: Job, at: manifest.Checkpoint, name: str) -> Model:
    """The model that a checkpoint is."""
    return Model(
        id=name,
        job_id=job.id,
        base=job.local_model,
        adapter=str(at.path),
        rank=job.settings["lora"]["rank"],
        created_at=int(time.time()),
    )


def base_name(job: Job) -> str:
    """The id of the job's final model: ``ft:MODEL:local:SUFFIX:ID``."""
    return f"ft:{job.model}:local:{job.suffix or ''}:{job.id.removeprefix('ftjob-')[:8]}"


def number(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
