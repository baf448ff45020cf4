"""Reward curves of any trainer in, the stop rule's points out: our runs, TRL, TensorBoard, CSV. Touches: disk.

a run directory, or metrics.jsonl   one JSON object per step ("critic_rewards_mean")
trainer_state.json                  TRL's log history ("reward"; transformers.TrainerState)
events.out.tfevents.*               TensorBoard scalars; a directory that holds them will do
*.csv                               step,reward with optional std and n

Our files count steps from 0, all others name a step by the updates made when it ends; points count from 0.
"""

import csv
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from grpo.errors import DataError
from grpo.points import FROM_METRICS, Point, parse
from grpo.runlog import parse_evaluation, read_lines
from grpo.types import Evaluation

OURS, TRL, TENSORBOARD, CSV = "critic_rewards_mean", "reward", "train/reward", "reward"
FROM_TRL = {
    "entropy": "entropy",
    "kl": "kl",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "length": "completions/mean_length",
    "truncated_share": "completions/clipped_ratio",
    "gap": "sampling/sampling_logp_difference/mean",
}
"""Field of a point: name in TRL's log history."""


def read_stream(path: Path, metric: str | None) -> list[Point]:
    """The curve in a file or directory, ordered by step.

    ``metric`` names the series; default: the usual name of the format. Raises DataError: file, what is there instead.
    """
    rows = list(_rows(path, metric))
    if not rows:
        raise DataError(f"{path}: no step with a reward in it")
    rows.sort(key=lambda point: point.step)
    for a, b in pairwise(rows):
        if a.step == b.step:
            raise DataError(f"{path}: step {a.step + 1} occurs twice; which of them counts cannot be told")
    return rows


def read_evaluations(path: Path, every: int) -> list[Evaluation]:
    """The held-out evaluations of one of our runs that were due every ``every`` steps; the rule sees no others."""
    found = (parse_evaluation(record) for record in read_lines(path / "evaluations.jsonl"))
    return [e for e in found if e.step % every == 0]


def _rows(path: Path, metric: str | None) -> Iterable[Point]:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir() and (path / "metrics.jsonl").is_file():
        path = path / "metrics.jsonl"
    if path.suffix == ".jsonl":
        return _records(path, list(read_lines(path)), metric or OURS, FROM_METRICS, "zero_variance_share", first=0)
    if path.suffix == ".json":
        return _records(path, _log_history(path), metric or TRL, FROM_TRL, "frac_reward_zero_std", first=1)
    if path.suffix == ".csv":
        return _table(path, metric or CSV)
    if path.is_dir() or "tfevents" in path.name:
        return _events(path, metric or TENSORBOARD)
    raise DataError(f"{path}: expected a run directory, metrics.jsonl, trainer_state.json, *.csv or TensorBoard events")


def _records(
    path: Path, records: list[dict[str, Any]], metric: str, names: dict[str, str], silence: str, first: int
) -> Iterable[Point]:
    """Records without the metric (evaluations, summaries) are not steps; ``first``: how the first step is called."""
    steps = [r for r in records if metric in r]
    if not steps:
        there = sorted({name for record in records for name in record})
        raise DataError(f"{path}: no record has {metric!r}; there are {', '.join(there) or 'none'} (--metric)")
    if metric not in (OURS, TRL):
        names = {}  # sizes and spreads belong to the usual reward
    for record in steps:
        try:
            values = {field: record[name] for field, name in names.items() if name in record}
            if silence in record:
                values["signal_share"] = 1 - float(record[silence])
            yield parse(values | {"step": int(record["step"]) - first, "reward": float(record[metric])})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: a record has no usable step or {metric}: {record}") from error


def _log_history(path: Path) -> list[dict[str, Any]]:
    try:
        history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not a trainer_state.json: there is no log_history in it") from None
    if not isinstance(history, list) or not all(isinstance(record, dict) for record in history):
        raise DataError(f"{path}: log_history is not a list of records")
    return history


def _table(path: Path, metric: str) -> Iterable[Point]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"step", metric} - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path}: line 1: no column {' or '.join(sorted(missing))}; expected step,{metric}[,std,n]")
        for row in reader:
            try:
                size = int(row["n"]) if row.get("n") else None
                yield Point(step=int(row["step"]) - 1, reward=float(row[metric]), completions=size)
            except (TypeError, ValueError):
                raise DataError(f"{path}: line {reader.line_num}: step, {metric} or n is not a number: {row}") from None


def _events(path: Path, metric: str) -> Iterable[Point]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # a second of imports

    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    if metric not in names:
        raise DataError(f"{path}: no scalar {metric!r}; there are {', '.join(names) or 'none'} (--metric)")
    for scalar in events.Scalars(metric):
        yield Point(step=scalar.step - 1, reward=scalar.value)
