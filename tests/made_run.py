"""A run directory written by the project's own writers, with numbers and completions that a test chooses."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.runlog import RunLog
from grpo.types import Completion, Evaluation, Group, Prompt, Reward

WORDS = (
    "the",
    "sum",
    "of",
    "these",
    "numbers",
    "is",
    "twelve",
    "so",
    "we",
    "add",
    "four",
    "and",
    "eight",
    "then",
    "check",
)
CONFIG: dict[str, Any] = {"run": {"steps": 100}, "model": {"path": "/models/tiny"}, "update": {"advantages": "std"}}


def record(step: int, reward: float, **more: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    told = {"step": step, "critic_rewards_mean": reward, "reward_half_width": 0.1, "response_length_mean": 20.0 + step}
    told |= {
        "actor_entropy": 1.0,
        "kl": 0.01,
        "seconds": 2.0,
        "status": "improving",
        "reward_parts": {"correct": reward},
    }
    return told | {"prompts": [step % 3, 9], "prompt_rewards": [reward, 0.5]} | more


def group(index: int, texts: Sequence[str], rewards: Sequence[float | None], **more: Any) -> Group:
    """One prompt with its completions."""
    answers = [
        Completion(token_ids=(1, 2, 3), logprobs=(-0.5, -0.25, -0.75), text=text, finish_reason="stop", **more)
        for text in texts
    ]
    told = [
        Reward(value=value, parts={"correct": value}) if value is not None else Reward(value=None, error="no number")
        for value in rewards
    ]
    asked = ({"role": "user", "content": f"What is {index} + 1?"},)
    prompt = Prompt(index=index, messages=asked, token_ids=(1,), reference_answer={"answer": str(index + 1)})
    return Group(prompt=prompt, completions=tuple(answers), rewards=tuple(told))


def make(
    directory: Path,
    steps: int,
    *,
    ended: bool = True,
    texts: Sequence[str] = (),
    config: dict[str, Any] | None = None,
) -> RunLog:
    """A run of so many steps; ``texts``: completions of the last one."""
    log, draw = RunLog(directory), random.Random(7)
    log.claim(CONFIG | (config or {}), "digest")
    log.event("start", step=0, sampler="transformers", ranks=1)
    for step in range(steps):
        reward = min(1.0, step / max(1, steps - 1))
        said = [" ".join(draw.choices(WORDS, k=8)) + f" #### {k}" for k in range(4)]
        groups = [group(step % 3, said, [1.0, 0.0, 1.0, 0.5]), group(9, said, [0.5, 0.5, 0.5, None])]
        if texts and step == steps - 1:
            groups = [group(0, texts, [k / len(texts) for k in range(len(texts))])]
        log.save_rollouts(step, groups)
        log.metric(record(step, reward))
        if step % 5 == 4:
            log.evaluation(
                Evaluation(
                    step=step + 1, mean=reward, low=reward - 0.1, high=reward + 0.1, n=40, prompt_means=(reward,)
                )
            )
    if ended:
        log.event("end", verdict="converged", reason="the next 20 steps gain less than 0.02")
    return log
