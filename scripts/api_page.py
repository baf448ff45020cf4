"""Writes docs/api.md: what of the OpenAI API is here, operation by operation and field by field.

    .venv/bin/python scripts/api_page.py [--check]

What is here is read from the routes and request models; this file adds what that means, and what is absent. An
operation or field without a word about it is an error, and so is a word about something that is not there.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from grpo.server.app import Opened, create_app
from grpo.server.openai import wire
from grpo.server.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
OPERATIONS = {
    "POST /files": ("full", "JSONL for fine-tuning is checked line by line; `expires_after` is kept"),
    "GET /files": ("full", ""),
    "GET /files/{file_id}": ("full", ""),
    "GET /files/{file_id}/content": ("full", ""),
    "DELETE /files/{file_id}": ("full", "409 while a job needs the file"),
    "POST /fine_tuning/jobs": ("partial", "reinforcement only; see the fields below. `Idempotency-Key` is honoured"),
    "GET /fine_tuning/jobs": ("full", "`metadata[k]=v`, `metadata=null`"),
    "GET /fine_tuning/jobs/{job_id}": ("full", "with `local_model` and `verdict` beside OpenAI's fields"),
    "POST /fine_tuning/jobs/{job_id}/cancel": ("full", "cancelling twice is no error"),
    "POST /fine_tuning/jobs/{job_id}/pause": ("differs", "`status` becomes `paused`, which OpenAI's types do not name"),
    "POST /fine_tuning/jobs/{job_id}/resume": ("full", ""),
    "GET /fine_tuning/jobs/{job_id}/events": ("full", "newest first; Bedrock's six keys in metrics events, with more"),
    "GET /fine_tuning/jobs/{job_id}/checkpoints": ("full", "one every `eval_interval` steps; `metrics` holds rewards"),
    "POST /fine_tuning/alpha/graders/run": ("partial", "graders of type lambda"),
    "POST /fine_tuning/alpha/graders/validate": ("partial", "graders of type lambda"),
    "GET /models": ("full", "base models, tuned models, checkpoints"),
    "GET /models/{model_id}": ("full", ""),
    "DELETE /models/{model_id}": ("full", "tuned models only; the weights stay on disk"),
    "POST /chat/completions": ("full", "vLLM's handler; no templates from requests"),
    "POST /completions": ("full", "vLLM's handler"),
    "POST /responses": ("partial", "vLLM's handler; responses are not stored"),
    "GET /healthz": ("ours", "needs no key"),
    "GET /metrics": ("ours", "the jobs, for Prometheus"),
}
ABSENT = {
    "POST /uploads and its parts": "Bedrock's pages do not mention it; upload in one piece",
    "/fine_tuning/checkpoints/{id}/permissions": "there are no projects to share with",
    "GET, DELETE /responses/{id}": "responses are not stored",
    "everything else": "answers 404 with code `unknown_operation` and the operation's name",
}
FIELDS = {
    "model": ("full", "an id of the server's table (`--map`), with or without Bedrock's version suffix"),
    "training_file": ("full", ""),
    "validation_file": ("full", "held-out prompts: scored every `eval_interval` steps, choose the checkpoint"),
    "suffix": ("full", "becomes part of the model's id; Bedrock refuses it, and so does `--fidelity strict`"),
    "seed": ("full", "the same job with the same seed on the same CPU gives the same bytes"),
    "metadata": ("full", ""),
    "hyperparameters": ("absent", "OpenAI's, for supervised fine-tuning; an error"),
    "integrations": ("absent", "an error unless empty"),
    "method.type": ("partial", "`reinforcement`; `supervised` and `dpo` are errors"),
    "method.supervised": ("absent", "an error"),
    "method.dpo": ("absent", "an error"),
    "method.reinforcement.grader": ("partial", "`lambda`: name or ARN of a registered function, or an invocation URL"),
    "method.reinforcement.hyperparameters.n_epochs": ("full", "whole passes; batches that are not full are dropped"),
    "method.reinforcement.hyperparameters.batch_size": ("full", "prompts a step; auto: 16, or all rows if fewer"),
    "method.reinforcement.hyperparameters.learning_rate_multiplier": ("full", "of 1e-4"),
    "method.reinforcement.hyperparameters.compute_multiplier": ("differs", "of 8 completions a prompt"),
    "method.reinforcement.hyperparameters.eval_interval": ("full", "steps; auto: 10"),
    "method.reinforcement.hyperparameters.eval_samples": ("full", "completions a held-out prompt; auto: 4"),
    "method.reinforcement.hyperparameters.reasoning_effort": (
        "full",
        "handed to the chat template; an error for a model whose template does not know it",
    ),
    "method.reinforcement.grpo": ("ours", "sections of [the configuration](configuration.md), without its paths"),
}
STRICT = "`suffix`, `method.reinforcement.grpo`, models other than Bedrock's, files under 100 or over 20,000 rows"


def main() -> int:
    text = "\n".join(page()) + "\n"
    if "--check" in sys.argv:
        return int(PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


def page() -> Iterator[str]:
    """The lines of the page. Raises ValueError when code and words disagree."""
    yield "# The API, operation by operation\n"
    yield "Written by `scripts/api_page.py` from the routes and request models. Base paths: `/v1` and `/openai/v1`.\n"
    yield "| operation | | |\n| --- | --- | --- |"
    yield from (f"| `{name}` | {status} | {note} |" for name, (status, note) in agree(OPERATIONS, routes()))
    yield from (f"| `{name}` | absent | {note} |" for name, note in ABSENT.items())
    yield "\n## Fields of `POST /fine_tuning/jobs`\n"
    yield "An unknown field is an error that names it.\n"
    yield "| field | | |\n| --- | --- | --- |"
    yield from (f"| `{name}` | {status} | {note} |" for name, (status, note) in agree(FIELDS, fields(wire.CreateJob)))
    yield f"\n## `--fidelity strict`\n\nRefused as well, because Bedrock does: {STRICT}."
    yield "\n## Errors\n"
    yield "OpenAI's envelope, `{error: {message, type, param, code}}`; `param` is the path of the field. An answer that"
    yield "repeating will not mend carries `x-should-retry: false`."


def agree(words: dict[str, tuple[str, str]], found: list[str]) -> list[tuple[str, tuple[str, str]]]:
    """The words, if they are about exactly what was found."""
    if set(words) != set(found):
        raise ValueError(f"without a word: {set(found) - set(words)}; not there: {set(words) - set(found)}")
    return list(words.items())


def routes() -> list[str]:
    """Every route of the application, without the base path."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Opened(Settings(data_dir=Path(folder), api_key="x"))
        paths = create_app(opened).openapi()["paths"]
        opened.close()
    return [f"{m.upper()} {path.removeprefix('/v1')}" for path, methods in paths.items() for m in methods]


def fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field of a request model, nested models by their fields."""
    found = []
    for name, info in model.model_fields.items():
        inner = next((t for t in (info.annotation, *getattr(info.annotation, "__args__", ())) if is_request(t)), None)
        found += fields(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found


def is_request(kind: object) -> bool:
    """Whether it is one of our request models."""
    return isinstance(kind, type) and issubclass(kind, wire.Request)


if __name__ == "__main__":
    sys.exit(main())
