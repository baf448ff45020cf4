"""One run, as the pages show it: read from its directory, whoever wrote it. Touches: disk (read)."""

import json
import math
import re
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from grpo import advantages
from grpo.console.table import Table
from grpo.manifest import complete
from grpo.runlog import read_lines, read_rollouts
from grpo.sections import Update
from grpo.types import Completion, Group, Reward

STEP_FILE = re.compile(r"step_(\d{6,})\.jsonl")
MOST_EVENTS = 500
EPSILON = 1e-6
"""Of the kernels (grpo_kernels/plain_loss.py)."""
ENDED = "end"


class RunView:
    """Reads one run directory; a run that is going on is read again as it grows."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.table = Table(directory / "metrics.jsonl")

    def config(self) -> dict[str, Any]:
        """The resolved configuration; empty before the run has written it."""
        path = self.directory / "config.json"
        return dict(json.loads(path.read_text())["config"]) if path.exists() else {}

    def summary(self) -> dict[str, Any]:
        """A line of the table of runs."""
        steps, config = self.table.refresh(), self.config()
        end = self.end()
        return {
            "steps": steps,
            "total_steps": config.get("run", {}).get("steps"),
            "reward": self.table.last("critic_rewards_mean"),
            "seconds_per_step": self.table.last("seconds"),
            "status": end["verdict"] if end else "running" if steps else "starting",
            "reason": end["reason"] if end else None,
            "model": Path(config.get("model", {}).get("path", "")).name,
        }

    def end(self) -> dict[str, Any] | None:
        """How the run ended, if its last event says that it did."""
        last = None
        for event in read_lines(self.directory / "events.jsonl"):
            last = event
        return last if last and last["event"] == ENDED else None

    def details(self) -> dict[str, Any]:
        """All but the curves and the completions."""
        events = list(read_lines(self.directory / "events.jsonl"))
        log = [event for event in events if event["event"] != "look"]
        return self.summary() | {
            "config": self.config(),
            "events": _plain(log[-MOST_EVENTS:]),
            "looks": _plain([event for event in events if event["event"] == "look"]),
            "evaluations": _plain([_short(e) for e in read_lines(self.directory / "evaluations.jsonl")]),
            "checkpoints": [checkpoint.step for checkpoint in complete(self.directory)],
            "metrics": self.table.names,
        }

    def step(self, step: int) -> dict[str, Any] | None:
        """Every group of a step (from 0), with advantages as the trainer had them; None where there is no such step."""
        groups = read_rollouts(self.directory, step)
        if groups is None:
            return None
        config = self.config()
        update, limit = Update.model_validate(config.get("update", {})), config.get("rollout", {}).get("max_tokens", 0)
        return {"step": step, "groups": [_group(group, update, limit) for group in groups]}

    def prompt(self, index: int) -> list[dict[str, Any]]:
        """The rewards of one prompt in all steps that drew it, from metrics.jsonl."""
        found = []
        for record in read_lines(self.directory / "metrics.jsonl"):
            if index in record.get("prompts", ()):
                at = record["prompts"].index(index)
                found.append({"step": record["step"], "reward": record["prompt_rewards"][at]})
        return found

    def search(self, text: str, most: int) -> Iterator[dict[str, Any]]:
        """Completions that contain a text, newest steps first."""
        wanted = text.casefold()
        files = sorted((self.directory / "rollouts").glob("step_*.jsonl"), reverse=True)
        for path in files:
            match = STEP_FILE.fullmatch(path.name)
            groups = read_rollouts(self.directory, int(match[1])) if match else None
            for number, group in enumerate(groups or ()):
                for at, (completion, reward) in enumerate(zip(group.completions, group.rewards, strict=True)):
                    if wanted in completion.text.casefold():
                        yield {
                            "step": int(match[1]) if match else 0,
                            "group": number,
                            "completion": at,
                            "reward": _finite(reward.value),
                            "text": completion.text,
                        }
                        most -= 1
                        if not most:
                            return


def shares(values: Seq[float], form: str) -> list[float]:
    """Advantages of one group's rewards, as grpo.advantages.normalise has them, without torch: it takes seconds."""
    if len(values) < 2 or max(values) == min(values):
        return [0.0] * len(values)
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    factor = {"std": 1 / (deviation + EPSILON), "none": 1.0, "leave_one_out": len(values) / (len(values) - 1)}[form]
    return [(value - mean) * factor for value in values]


def _group(group: Group, update: Update, max_tokens: int) -> dict[str, Any]:
    pairs = list(zip(group.completions, group.rewards, strict=True))
    shaped = [
        r.value + advantages.overlong_penalty(c.sampled, update, max_tokens) for c, r in pairs if r.value is not None
    ]
    silent = advantages.has_no_signal(group)
    found = iter([0.0] * len(shaped) if silent else shares(shaped, update.advantages))
    return {
        "prompt": {"index": group.prompt.index, "messages": list(group.prompt.messages)},
        "reference_answer": group.prompt.reference_answer,
        "extra": group.extra,
        "silent": silent,
        "completions": [_completion(c, r, next(found) if r.value is not None else None) for c, r in pairs],
    }


def _completion(completion: Completion, reward: Reward, advantage: float | None) -> dict[str, Any]:
    return {
        "text": completion.text,
        "reasoning": completion.reasoning,
        "turns": list(completion.turns),
        "tokens": completion.sampled,
        "finish_reason": completion.finish_reason,
        "mean_logprob": _finite(sum(completion.logprobs) / (completion.sampled or 1)),
        "reward": _finite(reward.value),
        "parts": {name: _finite(value) for name, value in reward.parts.items()},
        "error": reward.error or completion.error,
        "advantage": _finite(advantage),
    }


def _short(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {name: evaluation[name] for name in ("step", "mean", "low", "high", "n")}


def _plain(content: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    return _finite(content) if isinstance(content, float) else content


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
