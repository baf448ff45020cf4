"""The OpenAI API's shapes: requests as models, answers as functions of our records.

Facts: the openai package's types (``openai.types.fine_tuning``), and Bedrock's pages on its OpenAI-compatible API.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grpo.server.records import Checkpoint, Event, File, Job

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
ORGANIZATION = "local"
DEEPEST = 64
Auto = Literal["auto"]
Text = Annotated[str, Field(max_length=512)]


def depth(value: Any) -> int:
    """Levels of nesting, without recursion."""
    levels, level = 0, [value]
    while level:
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [entry for entries in inner for entry in entries]
        levels += bool(inner)
    return levels


class Request(BaseModel):
    """A body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _shallow(cls, values: Any) -> Any:
        if depth(values) > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST} levels")
        return values


class Hyperparameters(Request):
    """Bedrock documents the first three; the others are OpenAI's."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=512)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = "auto"
    compute_multiplier: Auto | Annotated[float, Field(ge=0.25, le=16, allow_inf_nan=False)] = "auto"
    eval_interval: Auto | Annotated[int, Field(ge=1, le=10_000)] = "auto"
    eval_samples: Auto | Annotated[int, Field(ge=1, le=1000)] = "auto"
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"


class Reinforcement(Request):
    """``grader`` is checked by hand: its types are a union that no client follows to the letter."""

    grader: dict[str, Any]
    hyperparameters: Hyperparameters = Hyperparameters()
    grpo: dict[str, dict[str, Any]] | None = None
    """Ours: sections of the configuration file."""


class Method(Request):
    """Reinforcement is what there is."""

    type: Literal["reinforcement", "supervised", "dpo"]
    reinforcement: Reinforcement | None = None
    supervised: dict[str, Any] | None = None
    dpo: dict[str, Any] | None = None


class CreateJob(Request):
    """POST /fine_tuning/jobs."""

    model: Text
    training_file: Text
    validation_file: Text | None = None
    suffix: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    method: Method | None = None
    hyperparameters: dict[str, Any] | None = None
    integrations: list[dict[str, Any]] | None = None


class RunGrader(Request):
    """POST /fine_tuning/alpha/graders/run."""

    grader: dict[str, Any]
    model_sample: Annotated[str, Field(max_length=1_000_000)]
    item: dict[str, Any] | None = None


class ValidateGrader(Request):
    """POST /fine_tuning/alpha/graders/validate."""

    grader: dict[str, Any]


def file(record: File) -> dict[str, Any]:
    """``openai.types.FileObject``."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "expires_at": record.expires_at,
    }


def job(record: Job) -> dict[str, Any]:
    """``openai.types.fine_tuning.FineTuningJob``, with ``local_model`` and ``verdict`` beside it."""
    asked = record.method["reinforcement"].get("hyperparameters", {})
    return {
        "id": record.id,
        "object": "fine_tuning.job",
        "created_at": record.created_at,
        "finished_at": record.finished_at,
        "estimated_finish": None,
        "status": record.status,
        "model": record.model,
        "local_model": record.local_model.rpartition("/")[2],
        "fine_tuned_model": record.fine_tuned_model,
        "organization_id": ORGANIZATION,
        "training_file": record.training_file,
        "validation_file": record.validation_file,
        "result_files": [],
        "seed": record.seed,
        "trained_tokens": record.trained_tokens,
        "error": record.error,
        "metadata": record.metadata,
        "integrations": None,
        "user_provided_suffix": record.suffix,
        "hyperparameters": {
            "n_epochs": asked.get("n_epochs", "auto"),
            "batch_size": asked.get("batch_size", "auto"),
            "learning_rate_multiplier": asked.get("learning_rate_multiplier", "auto"),
        },
        "method": record.method,
        "verdict": record.verdict,
    }


def event(record: Event) -> dict[str, Any]:
    """``openai.types.fine_tuning.FineTuningJobEvent``."""
    return {
        "id": record.id,
        "object": "fine_tuning.job.event",
        "created_at": record.created_at,
        "level": record.level,
        "message": record.message,
        "type": record.type,
        "data": record.data,
    }


def checkpoint(record: Checkpoint) -> dict[str, Any]:
    """``openai.types.fine_tuning.jobs.FineTuningJobCheckpoint``."""
    return {
        "id": record.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": record.created_at,
        "fine_tuned_model_checkpoint": record.model,
        "fine_tuning_job_id": record.job_id,
        "step_number": record.step,
        "metrics": record.metrics,
    }


def model(model_id: str, created: int, owner: str) -> dict[str, Any]:
    """``openai.types.Model``."""
    return {"id": model_id, "object": "model", "created": created, "owned_by": owner}


def page(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """A cursor page."""
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, "has_more": more} | ends
