"""The run directory: everything a run did, in files a person can read. Touches: disk.

    config.json                the resolved configuration and its digest
    metrics.jsonl              one line per step
    events.jsonl               starts, engine restarts, looks of the stop rule
    evaluations.jsonl          held-out means with their intervals
    rollouts/step_000012.jsonl every prompt of the step with all completions and rewards
    evals/heldout_000010.jsonl the same for evaluations
    engine.log, reward.log     output of the child processes

A step's rollouts are on disk before the update that uses them, whole or not at all.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.errors import CheckpointError
from grpo.types import Completion, Evaluation, Group, Prompt, Reward


def write_atomic(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Replace a file so that it holds the old or the new content, whatever happens. ``mode`` is before the umask."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # one that was left might have another mode
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_use(directory: Path) -> bool:
    """Whether a process trains there."""
    path = directory / "lock"
    if not path.exists():
        return False
    with path.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class RunLog:
    """Writer and reader of one run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metrics_path = directory / "metrics.jsonl"
        self.events_path = directory / "events.jsonl"
        self.evaluations_path = directory / "evaluations.jsonl"
        (directory / "rollouts").mkdir(parents=True, exist_ok=True)
        (directory / "evals").mkdir(exist_ok=True)

    def claim(self, config: dict[str, Any], digest: str) -> None:
        """Take the directory for this process, and record the configuration or check that it is the same.

        Raises CheckpointError when another process has it or the run in it has another configuration.
        """
        self._lock = (self.directory / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{self.directory}: another process is training in this directory") from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        _rewrite(self.events_path, list(read_lines(self.events_path)))  # without a line that a crash cut
        path = self.directory / "config.json"
        if path.exists():
            found = json.loads(path.read_text())["digest"]
            if found != digest:
                raise CheckpointError(
                    f"{self.directory} holds a run with another configuration (see {path}). "
                    "Choose another run.dir, or remove the directory to start over"
                )
            return
        write_atomic(path, json.dumps({"digest": digest, "config": config}, indent=1) + "\n")

    def metric(self, record: dict[str, Any]) -> None:
        """Append one step's metrics, durably."""
        _append(self.metrics_path, record)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event with the time of day."""
        _append(self.events_path, {"time": round(time.time(), 3), "event": kind, **fields})

    def metrics(self) -> list[dict[str, Any]]:
        """All steps' metrics; a torn last line is left out."""
        return list(read_lines(self.metrics_path))

    def evaluation(self, evaluation: Evaluation) -> None:
        """Append one held-out evaluation, durably."""
        _append(self.evaluations_path, asdict(evaluation))

    def evaluations(self) -> list[Evaluation]:
        """All held-out evaluations, oldest first."""
        return [parse_evaluation(record) for record in read_lines(self.evaluations_path)]

    def rewind(self, steps: int) -> None:
        """Forget what the checkpoint after ``steps`` steps does not confirm; repeating it gives it again.

        A look belongs to the step it was made at; other events tell what happened, repeated or not, and stay.
        """
        _rewrite(self.metrics_path, [r for r in self.metrics() if r["step"] < steps])
        _rewrite(self.evaluations_path, [asdict(e) for e in self.evaluations() if e.step <= steps])
        events = read_lines(self.events_path)
        _rewrite(self.events_path, [e for e in events if e["event"] != "look" or e["step"] <= steps])

    def rollouts_path(self, step: int) -> Path:
        return self.directory / "rollouts" / f"step_{step:06d}.jsonl"

    def save_rollouts(self, step: int, groups: Seq[Group]) -> None:
        """Write one step's groups before they are used."""
        write_atomic(self.rollouts_path(step), "".join(json.dumps(_dump(g)) + "\n" for g in groups))

    def load_rollouts(self, step: int) -> list[Group] | None:
        """The groups of a step that was sampled but not trained on before a crash, or None."""
        return read_rollouts(self.directory, step)

    def load_evaluation(self, name: str) -> list[Group]:
        """The groups of an evaluation; empty where there was none."""
        return [_parse(record) for record in read_lines(self.directory / "evals" / f"{name}.jsonl")]

    def save_evaluation(self, name: str, groups: Seq[Group]) -> None:
        write_atomic(self.directory / "evals" / f"{name}.jsonl", "".join(json.dumps(_dump(g)) + "\n" for g in groups))


def read_rollouts(directory: Path, step: int) -> list[Group] | None:
    """The groups of a step of the run in ``directory``, or None."""
    path = directory / "rollouts" / f"step_{step:06d}.jsonl"
    return [_parse(record) for record in read_lines(path)] if path.exists() else None


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _rewrite(path: Path, records: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(record) + "\n" for record in records))


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The records of a JSONL file; nothing where there is no file. A line that a crash cut is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue  # empty, or the line that a crash cut


def parse_evaluation(record: dict[str, Any]) -> Evaluation:
    """A line of evaluations.jsonl."""
    return Evaluation(**(record | {"prompt_means": tuple(record["prompt_means"])}))


def _dump(group: Group) -> dict[str, Any]:
    return asdict(group)


def _parse(record: dict[str, Any]) -> Group:
    prompt = record["prompt"]
    prompt |= {"messages": tuple(prompt["messages"]), "token_ids": tuple(prompt["token_ids"])}
    return Group(
        prompt=Prompt(**prompt),
        completions=tuple(_completion(c) for c in record["completions"]),
        rewards=tuple(Reward(**reward) for reward in record["rewards"]),
        extra=record.get("extra", False),
    )


def _completion(record: dict[str, Any]) -> Completion:
    lists = {name: tuple(record.get(name, ())) for name in ("token_ids", "logprobs", "turns")}
    foreign = tuple((start, end) for start, end in record.get("foreign", ()))
    return Completion(**(record | lists | {"foreign": foreign}))
