"""One run, as the pages show it: read from its directory, whoever wrote it. Touches: disk.

What a list of runs needs is read from the ends of files, so that a run of a hundred thousand steps is listed as fast as
a short one.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grpo.alarms import alarms
from grpo.console import settings, shown, tokens
from grpo.console.growing import Growing, first_records, last_records
from grpo.console.index import Index
from grpo.console.table import Table, numbers
from grpo.manifest import complete
from grpo.points import of_record
from grpo.runlog import parse_evaluation, read_rollouts
from grpo.sections import Update
from grpo.types import Group

MOST_EVENTS, MOST_MARKS = 500, 400
"""Of the log, and of looks and evaluations: more are not drawn."""
AT_FIRST, AT_LAST, LATELY = 20, 500, 50
"""Steps that alarms are told by, and steps whose metrics are drawn."""
MOVED_S = 300.0
"""A run that wrote something within this time goes on, perhaps on another machine."""
ENDED, LOOK, RESUME = "end", "look", "resume"


class RunView:
    """Reads one run directory; a run that is going on is read again as it grows."""

    def __init__(self, directory: Path, cache: Path) -> None:
        """``cache``: where an index of its completions may lie."""
        self.directory, self.cache = directory, cache
        self.metrics = directory / "metrics.jsonl"
        self.table = Table(self.metrics)
        self._log = Growing(directory / "events.jsonl")
        self._events: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self.index = Index(cache, directory, self._stamp, self._rows)
        self._shape: tuple[Update, int] | None = None

    def written(self) -> dict[str, Any]:
        """config.json: the resolved configuration and its digest; empty before the run has written it."""
        return written(self.directory) or {}

    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return dict(self.written().get("config", {}))

    @property
    def steps(self) -> int:
        """That are complete."""
        return int(self.last().get("step", -1)) + 1

    def last(self) -> dict[str, Any]:
        """The newest metrics; empty before the first step."""
        return (last_records(self.metrics, 1) or [{}])[0]

    def rewards(self) -> list[float]:
        """Of all steps."""
        self.table.refresh()
        return self.table.column("critic_rewards_mean")

    def summary(self) -> dict[str, Any]:
        """A line of the table of runs."""
        config, last = self.config(), self.last()
        end, steps = self.end(), last.get("step", -1) + 1
        going = ("running" if steps else "starting") if self.alive() else "stopped"
        return {
            "steps": steps,
            "total_steps": config.get("run", {}).get("steps"),
            "reward": shown.finite(last.get("critic_rewards_mean")),
            "seconds_per_step": shown.finite(last.get("seconds")),
            "status": end["verdict"] if end else going,
            "reason": end["reason"] if end else None,
            "model": Path(config.get("model", {}).get("path", "")).name,
        }

    def end(self) -> dict[str, Any] | None:
        """How the run ended, if its last event says that it did."""
        last = last_records(self.directory / "events.jsonl", 1)
        return last[0] if last and last[0]["event"] == ENDED else None

    def alive(self) -> bool:
        """Whether somebody trains here: the process whose number the lock has is there, or a file was just written."""
        try:
            owner = (self.directory / "lock").read_text().strip()
            moved = max((self.directory / name).stat().st_mtime for name in ("lock", "rollouts", "events.jsonl"))
        except OSError:
            return False
        return (owner.isdigit() and Path(f"/proc/{owner}").exists()) or time.time() - moved < MOVED_S

    def details(self) -> dict[str, Any]:
        """All but the curves and the completions."""
        events, evaluations = self.events(), self.evaluations()
        looks = [event for event in events if event["event"] == LOOK]
        log = [event for event in events if event["event"] != LOOK]
        written = self.written()
        told = {
            "settings": settings.against_defaults(written.get("config", {})),
            "digest": written.get("digest"),
            "rule": settings.rule(written.get("config", {})),
            "events": log[-MOST_EVENTS:],
            "looks": _thinned(looks),
            "restarts": [event["step"] for event in log if event["event"] == RESUME],
            "evaluations": _thinned(evaluations),
            "checkpoints": [{"step": c.step, "sha256": _digest(c.path)} for c in complete(self.directory)],
            "metrics": list(dict.fromkeys(name for r in last_records(self.metrics, LATELY) for name in numbers(r))),
            "base": self.base(),
            "alarms": self.alarms(evaluations),
        }
        return self.summary() | dict(shown.plain(told))

    def base(self) -> float | None:
        """The base model's mean reward: the first step is sampled before any update."""
        first = first_records(self.metrics, 1)
        return shown.finite(first[0]["critic_rewards_mean"]) if first else None

    def events(self) -> list[dict[str, Any]]:
        """All of the run's log, oldest first."""
        with self._lock:
            void, new = self._log.read()
            self._events = [*([] if void else self._events), *new]
            return self._events

    def evaluations(self) -> list[dict[str, Any]]:
        """Of the held-out prompts, without the prompts' own means."""
        found = last_records(self.directory / "evaluations.jsonl", MOST_EVENTS)
        return [{name: one[name] for name in ("step", "mean", "low", "high", "n")} for one in found]

    def alarms(self, evaluations: list[dict[str, Any]]) -> list[dict[str, str]]:
        """What seems wrong while a run goes on, in words; one that has ended has a verdict instead."""
        if self.end() or not self.alive():
            return []
        records = last_records(self.metrics, AT_LAST)
        before = [r for r in first_records(self.metrics, AT_FIRST) if records and r["step"] < records[0]["step"]]
        known = [parse_evaluation({**one, "prompt_means": []}) for one in evaluations]
        found = alarms([of_record(record) for record in [*before, *records]], known)
        return [{"name": one.name, "text": one.text, "advice": one.advice} for one in found]

    def groups(self, step: int) -> list[Group] | None:
        """Of a step, from 0; None where there is no such step."""
        return read_rollouts(self.directory, step)

    def step(self, step: int) -> dict[str, Any] | None:
        """Every group of a step, as pages show it; None where there is no such step."""
        groups = self.groups(step)
        if groups is None:
            return None
        update, limit = self._shaping()
        return {"step": step, "steps": self.steps, "groups": [shown.group(one, update, limit) for one in groups]}

    def pieces(self, step: int, place: int) -> list[list[dict[str, Any]]] | None:
        """The tokens of each completion of a group; None where there is none, or no tokenizer."""
        groups = self.groups(step)
        if groups is None or place >= len(groups):
            return None
        model = Path(self.config().get("model", {}).get("path", ""))
        found = [tokens.pieces(model, completion) for completion in groups[place].completions]
        return None if None in found else list(shown.plain(found))

    def completions_in(self, patience_s: float) -> tuple[int, int]:
        """Bring the index further. Returns of how many steps the completions are in, and how many steps there are."""
        steps, self._shape = self.steps, self._shaping()
        return self.index.refresh(steps, patience_s), steps

    def _stamp(self, step: int) -> str | None:
        try:
            found = (self.directory / "rollouts" / f"step_{step:06d}.jsonl").stat()
        except FileNotFoundError:
            return None
        return f"{found.st_mtime_ns} {found.st_size}"

    def _rows(self, step: int) -> list[tuple[Any, ...]]:
        update, limit = self._shape or self._shaping()
        return list(shown.rows(step, self.groups(step) or (), update, limit))

    def _shaping(self) -> tuple[Update, int]:
        """What the trainer makes advantages of; a setting of another version is left out."""
        config = self.config()
        known = {name: value for name, value in config.get("update", {}).items() if name in Update.model_fields}
        turns = (config.get("environment") or {}).get("max_turns", 1)
        limit = config.get("rollout", {}).get("max_tokens", 0) * turns
        try:
            return Update.model_validate(known), limit
        except ValidationError:
            return Update(), limit


def written(run: Path) -> dict[str, Any] | None:
    """A run's config.json; None where there is none, or it is of something else."""
    try:
        found = json.loads((run / "config.json").read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("config"), dict) and isinstance(found.get("digest"), str)
    return found if whole else None


def _digest(checkpoint: Path) -> str | None:
    """Of the adapter's weights, as the manifest has it; None where it was removed just now."""
    try:
        files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError):
        return None
    return next((str(digest) for name, digest in files.items() if name.endswith("adapter_model.safetensors")), None)


def _thinned(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """So many that they can be told apart, the last one among them."""
    stride = -(-len(entries) // MOST_MARKS) or 1
    return entries[::-1][::stride][::-1]
