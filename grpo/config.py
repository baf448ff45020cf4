"""A run is described by one TOML file; an unknown key is an error that names the nearest. Touches: disk (read)."""

import difflib
import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeGuard, get_args

from pydantic import BaseModel, ValidationError, model_validator

from grpo.errors import ConfigError
from grpo.sections import (
    Convergence,
    Data,
    Environment,
    Evaluate,
    Grader,
    Lora,
    Model,
    Reward,
    Rollout,
    Run,
    Section,
    Update,
)

OPERATIONAL = (
    ("run", "dir"),
    ("run", "keep_checkpoints"),
    ("run", "keep_every"),
    ("run", "tensorboard"),
    ("reward", "timeout_s"),
    ("reward", "memory_gib"),
    ("reward", "concurrency"),
    ("reward", "sandbox"),
    ("reward", "retries"),
    ("reward", "max_error_share"),
    ("environment", "timeout_s"),
    ("environment", "memory_gib"),
    ("environment", "concurrency"),
    ("environment", "sandbox"),
    ("rollout", "engines"),
    ("rollout", "shared_dir"),
    ("rollout", "timeout_s"),
    ("rollout", "restarts"),
    ("rollout", "engine_memory_gib"),
    ("rollout", "engine_memory_share"),
    ("rollout", "sleep"),
    ("rollout", "tensor_parallel"),
    ("update", "tokens_per_microbatch"),
    ("update", "gradient_checkpointing"),
    ("update", "shard_base"),
)
"""Settings that may change on resume: they decide where and how patiently a run works, not what it computes."""
PATIENCE = ("api_key", "timeout_s", "at_once")
"""Such settings of built-in graders."""


class Config(Section):
    """A complete run."""

    run: Run
    model: Model
    data: Data
    reward: Reward
    rollout: Rollout = Rollout()
    environment: Environment | None = None
    lora: Lora = Lora()
    update: Update = Update()
    evaluate: Evaluate = Evaluate()
    convergence: Convergence = Convergence()

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.rollout.prompts_per_step % self.update.minibatches:
            raise ValueError(
                f"update.minibatches = {self.update.minibatches} does not divide "
                f"rollout.prompts_per_step = {self.rollout.prompts_per_step}: some prompts would be dropped"
            )
        if self.update.shard_base and (self.rollout.sync == "merged" or self.rollout.sampler == "transformers"):
            raise ValueError(
                "update.shard_base: no rank has the whole model, so that weights cannot be merged nor sampled from; "
                "use vLLM with rollout.sync = adapter"
            )
        if self.update.shard_base and self.update.pack_base:
            raise ValueError("update.shard_base and update.pack_base: packed layers cannot be split over ranks")
        if self.update.compile and (self.update.shard_base or self.update.pack_base):
            raise ValueError("update.compile: layers that are split over ranks or packed are not compiled")
        if self.update.compile and self.rollout.sampler == "transformers":
            raise ValueError("update.compile needs vLLM: transformers samples with the layers that are trained")
        if self.rollout.ahead and (self.rollout.sleep or self.rollout.sampler == "transformers"):
            raise ValueError("rollout.ahead needs an engine that samples during updates: vLLM, without rollout.sleep")
        if self.update.overlong_buffer > self.most_sampled:
            raise ValueError(
                f"update.overlong_buffer = {self.update.overlong_buffer} is more than the {self.most_sampled} tokens "
                "that a completion may sample: every one would be too long"
            )
        return self

    @property
    def most_sampled(self) -> int:
        """Tokens that the policy may sample in one completion, in all of its turns."""
        return self.rollout.max_tokens * (self.environment.max_turns if self.environment else 1)

    @property
    def longest_completion(self) -> int:
        """Tokens of a completion at most, the environment's among them."""
        replies = self.environment.max_reply_tokens * (self.environment.max_turns - 1) if self.environment else 0
        return self.most_sampled + replies

    def digest(self) -> str:
        """Identity of all that changes the numbers of a run, file contents included; the step budget may grow."""
        content = self.model_dump(mode="json")
        for section, key in OPERATIONAL:
            if content[section] is not None:
                del content[section][key]
        for source in (content["reward"], *content["reward"]["graders"]):
            source["options"] = {k: v for k, v in source["options"].items() if k not in PATIENCE}
            source["environment"].pop("JUDGE_API_KEY", None)
        if self.update.schedule == "constant":
            del content["run"]["steps"]
        data = (self.data.train, self.data.heldout, self.data.test, self.model.path / "config.json")
        code = [*self.reward.files(), *([self.environment.file] if self.environment else ())]
        files = [*data, *(code or (None,))]
        content["files"] = [_file_digest(path) for path in files]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else None


def load(path: Path, overrides: list[str] | None = None) -> Config:
    """Read a TOML file and apply ``section.key=value`` overrides. Raises ConfigError.

    Relative paths count from the current directory, as in a shell.
    """
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file. Example files are in configs/.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    for override in overrides or []:
        _apply(content, override)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {explain(detail)}" for detail in error.errors())
        raise ConfigError(f"{path}: {error.error_count()} problem(s)\n{problems}") from None


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *path, name = key.strip().split(".")
    if not equals or not path:
        raise ConfigError(f"--set {override}: expected section.key=value, for instance --set run.seed=1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, so that paths need no quotes inside quotes
    table = content
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is not a table of the file")
    table[name] = value


def explain(detail: Any) -> str:
    """One validation problem of pydantic's in our words."""
    where = ".".join(str(part) for part in detail["loc"]) or "file"
    if detail["type"] != "extra_forbidden":
        plain = isinstance(detail["input"], str | int | float | bool | None)
        got = f" (got {detail['input']!r})" if plain else ""  # a whole table may hold secrets
        return f"{where}: {detail['msg']}{got}" if detail["loc"] else detail["msg"]
    nearest = difflib.get_close_matches(re.sub(r"\.\d+\.", ".", where), known_keys(), n=1, cutoff=0.0)
    return f"{where}: unknown key. Did you mean {nearest[0]}?"


def known_keys() -> list[str]:
    """Every key a file may hold: sections, and section.key for each of their fields."""
    keys = list(Config.model_fields)
    for section, info in Config.model_fields.items():
        (table,) = [kind for kind in (info.annotation, *get_args(info.annotation)) if is_table(kind)]
        keys += [f"{section}.{name}" for name in table.model_fields]
    return keys + [f"reward.graders.{name}" for name in Grader.model_fields]


def is_table(kind: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a type is that of a table of the file."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)
