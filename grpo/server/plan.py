"""A request to fine-tune, turned into the configuration of a run. Pure.

Bedrock's three hyperparameters and OpenAI's others keep their names; what both lack is said in the words of our own
configuration file, in ``method.reinforcement.grpo`` (docs/configuration.md).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grpo.config import Config, explain
from grpo.doctor import device
from grpo.server.catalogue import chat_template
from grpo.server.errors import Invalid

BASE_LEARNING_RATE = 1e-4
"""What learning_rate_multiplier multiplies: AWS's recommendation for LoRA (Bedrock RFT best practices, April 2026)."""
GROUP_SIZE = 8
"""What compute_multiplier multiplies. Bedrock's published events fit 8 completions a prompt."""
BATCH_SIZE = 16
EPOCHS = 1
CPU_MICROBATCH = 2048
"""Tokens in one pass on a CPU, whose memory cannot run out and be found again: the kernel kills what asks for more."""
OURS = ("rollout", "lora", "update", "evaluate", "convergence", "data", "reward", "run")
"""Sections that may be set in ``method.reinforcement.grpo``, but for the fields that are the server's business."""
SERVER_ONLY = {
    "run": {"dir", "seed", "steps"},
    "data": {"train", "heldout", "test"},
    "reward": {
        "file",
        "url",
        "function",
        "builtin",
        "options",
        "graders",
        "handler",
        "environment",
        "sandbox",
        "network",
    },
    "rollout": {"sampler", "prompts_per_step", "engine_memory_gib", "engine_memory_share"},
    "update": {"compile"},
}
WHERE = "method.reinforcement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What decides a run, after names were looked up."""

    model: Path
    train: Path
    rows: int
    heldout: Path | None
    seed: int
    reward: dict[str, Any]
    """The ``[reward]`` section that the grader stands for."""
    hyperparameters: dict[str, Any]
    sampler: str = "auto"
    engine_memory_gib: float | None = None
    """Of a sampling engine on a CPU; None: as the configuration has it."""
    grpo: dict[str, Any] = field(default_factory=dict)


def settings(request: Request, run: Path) -> dict[str, Any]:
    """The run's complete configuration, as JSON. Raises Invalid that names the field."""
    batch = batch_size(request)
    content: dict[str, Any] = {
        "run": {"dir": str(run), "steps": steps(request, batch), "seed": request.seed},
        "model": {"path": str(request.model), "template": template(request)},
        "data": {"train": str(request.train), "heldout": str(request.heldout) if request.heldout else None},
        "reward": dict(request.reward),
        "rollout": {
            "sampler": request.sampler,
            "prompts_per_step": batch,
            "completions_per_prompt": round(GROUP_SIZE * _number(request, "compute_multiplier", 1.0)),
        },
        "update": {"learning_rate": BASE_LEARNING_RATE * _number(request, "learning_rate_multiplier", 1.0)},
        "evaluate": {
            "every": int(_number(request, "eval_interval", 10)),
            "completions_per_prompt": int(_number(request, "eval_samples", 4)),
        },
    }
    if request.engine_memory_gib is not None:
        content["rollout"]["engine_memory_gib"] = request.engine_memory_gib
    for section, values in request.grpo.items():
        _merge(content, section, values)
    content["run"].setdefault("keep_every", content["evaluate"]["every"])
    found = _validated(content)
    if device() == "cpu" and "tokens_per_microbatch" not in content["update"]:
        update = found.update.model_copy(update={"tokens_per_microbatch": CPU_MICROBATCH})
        found = found.model_copy(update={"update": update})
    return found.model_dump(mode="json")


def template(request: Request) -> dict[str, Any]:
    """Options of the chat template. Raises Invalid for an effort that the model does not know."""
    effort = request.hyperparameters.get("reasoning_effort", "default")
    if effort == "default":
        return {}
    if "reasoning_effort" not in chat_template(request.model):
        raise Invalid(
            "this model's chat template has no reasoning_effort", param=f"{WHERE}.hyperparameters.reasoning_effort"
        )
    return {"reasoning_effort": effort}


def batch_size(request: Request) -> int:
    """Prompts of one step. Raises Invalid when the file has fewer."""
    given = request.hyperparameters.get("batch_size", "auto")
    if given == "auto":
        return min(BATCH_SIZE, request.rows)
    if int(given) > request.rows:
        raise Invalid(
            f"batch_size {given} is more than the {request.rows} rows of the training file",
            param=f"{WHERE}.hyperparameters.batch_size",
        )
    return int(given)


def steps(request: Request, batch: int) -> int:
    """Whole batches in all epochs; at least one."""
    return max(1, int(_number(request, "n_epochs", EPOCHS)) * request.rows // batch)


def _number(request: Request, name: str, default: float) -> float:
    value = request.hyperparameters.get(name, "auto")
    return default if value == "auto" else float(value)


def _merge(content: dict[str, Any], section: str, values: Any) -> None:
    where = f"{WHERE}.grpo.{section}"
    if section not in OURS:
        raise Invalid(f"unknown section {section[:64]!r}; known: {', '.join(OURS)}", param=where)
    if not isinstance(values, dict):
        raise Invalid("expected an object", param=where)
    for name in values:
        if name in SERVER_ONLY.get(section, ()):
            raise Invalid("this is the server's to decide, or has a field of its own", param=f"{where}.{name}")
    content[section] = content.get(section, {}) | values


def _validated(content: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise Invalid(explain(detail), param=f"{WHERE}.grpo.{where}" if where else WHERE) from None
