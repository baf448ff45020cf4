"""A run is described by one TOML file; an unknown key is an error that names the nearest. Touches: disk (read)."""

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grpo.errors import ConfigError

OPERATIONAL = (
    ("run", "dir"),
    ("run", "keep_checkpoints"),
    ("run", "keep_every"),
    ("reward", "timeout_s"),
    ("reward", "memory_gib"),
    ("rollout", "timeout_s"),
    ("rollout", "restarts"),
    ("rollout", "engine_memory_gib"),
    ("rollout", "engine_memory_share"),
)
"""Settings that may change on resume: they decide where and how patiently a run works, not what it computes."""


class Section(BaseModel):
    """One table of the file; frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Run(Section):
    """Where the run lives and how long it may take."""

    dir: Path
    """Directory of the run; the same command goes on from what it holds."""
    steps: int = Field(200, ge=1)
    """Budget: the most updates the run may make. The stop rule usually ends it earlier."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds prompt order, adapter initialisation and sampling."""
    keep_checkpoints: int = Field(3, ge=1)
    """Evaluated checkpoints kept beside the best and the newest one."""
    keep_every: int = Field(0, ge=0)
    """Checkpoints of every so many steps are kept as well; 0: none."""


class Model(Section):
    """The base model, in Hugging Face form, on disk."""

    path: Path
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of trainer and engine alike. auto: bfloat16 on a GPU, float32 on a CPU."""


class Data(Section):
    """Prompt files, JSON lines in Bedrock's form."""

    train: Path
    heldout: Path | None = None
    """Scored during the run; chooses the checkpoint."""
    test: Path | None = None
    """Scored once, base and tuned, after the checkpoint is chosen."""
    max_prompt_tokens: int = Field(512, ge=1)


class RewardFile(Section):
    """A Python file with Bedrock's Lambda contract, run in a child process."""

    file: Path
    handler: str = "lambda_handler"
    timeout_s: float = Field(60.0, gt=0)
    """For one call; a call that takes longer is killed and its samples are retried one by one."""
    batch_size: int = Field(64, ge=1)
    memory_gib: float = Field(2.0, gt=0)


class Rollout(Section):
    """How completions are sampled."""

    sampler: Literal["auto", "vllm", "transformers"] = "auto"
    prompts_per_step: int = Field(16, ge=1)
    completions_per_prompt: int = Field(8, ge=2)
    max_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0)
    sync: Literal["auto", "adapter", "merged"] = "auto"
    """How new weights reach the engine. auto: merged on a CPU, adapter on a GPU."""
    engine_memory_gib: float = Field(1.0, gt=0)
    """KV cache on a CPU."""
    engine_memory_share: float = Field(0.4, gt=0, le=0.95)
    """Share of a GPU's memory the engine may take."""
    timeout_s: float = Field(600.0, gt=0)
    """For the requests of one step together; then the engine counts as hung and is restarted."""
    restarts: int = Field(3, ge=0)
    """Engine restarts within one request before the run ends."""


class Lora(Section):
    """The adapter."""

    rank: Literal[1, 8, 16, 32, 64, 128, 256] = 16
    alpha: int = Field(32, ge=1)
    targets: str | tuple[str, ...] = "all-linear"


class Update(Section):
    """The policy update."""

    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(5, ge=0)
    schedule: Literal["constant", "linear"] = "constant"
    """After warm-up; linear falls to 0 at the step budget."""
    minibatches: int = Field(1, ge=1)
    """Optimizer updates made from one step's rollouts."""
    advantage_scale: Literal["std", "none"] = "std"
    """std: GRPO, arXiv 2402.03300 eq. 3; none: Dr. GRPO, arXiv 2503.20783."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    """Larger than clip_low: "clip-higher", DAPO, arXiv 2503.14476."""
    importance_cap: float = Field(2.0, ge=1)
    """Upper bound of the weight that corrects for the trainer/sampler gap."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL term against the base model; 0 skips its forward pass."""
    max_grad_norm: float = Field(1.0, gt=0)
    tokens_per_microbatch: int = Field(8192, ge=64)


class Evaluate(Section):
    """Held-out evaluation during the run."""

    every: int = Field(10, ge=1)
    completions_per_prompt: int = Field(4, ge=1)
    test_completions_per_prompt: int = Field(8, ge=1)


class Convergence(Section):
    """The stop rule; docs/convergence.md."""

    delta: float = Field(0.02, gt=0)
    """Smallest gain over the next ``horizon`` steps worth going on for, in reward units."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Bound on the chance of stopping while that gain is still to come."""
    horizon: int = Field(20, ge=1)
    min_steps: int = Field(20, ge=1)
    """No stop before this step, warm-up included."""
    ceiling: float | None = None
    """Highest reward possible, where there is one: a level close to it leaves little to gain."""
    stop: bool = True
    """False: verdicts are computed and logged, the budget ends the run."""


class Config(Section):
    """A complete run."""

    run: Run
    model: Model
    data: Data
    reward: RewardFile
    rollout: Rollout = Rollout()
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
        return self

    def digest(self) -> str:
        """Identity of all that changes the numbers of a run, file contents included; the step budget may grow."""
        content = self.model_dump(mode="json")
        for section, key in OPERATIONAL:
            del content[section][key]
        if self.update.schedule == "constant":
            del content["run"]["steps"]
        files = (self.data.train, self.data.heldout, self.data.test, self.reward.file, self.model.path / "config.json")
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
        problems = "\n".join(f"  {_explain(detail)}" for detail in error.errors())
        raise ConfigError(f"{path}: {error.error_count()} problem(s)\n{problems}") from None


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"--set {override}: expected section.key=value, for instance --set run.seed=1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, so that paths need no quotes inside quotes
    table = content.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"--set {override}: {section} is not a section of the file")
    table[name] = value


def _explain(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "file"
    if detail["type"] != "extra_forbidden":
        return f"{where}: {detail['msg']} (got {detail['input']!r})" if detail["loc"] else detail["msg"]
    known = known_keys()
    nearest = difflib.get_close_matches(where, known, n=1, cutoff=0.0)
    return f"{where}: unknown key. Did you mean {nearest[0]}?"


def known_keys() -> list[str]:
    """Every key a file may hold: sections, and section.key for each of their fields."""
    keys = list(Config.model_fields)
    for section, info in Config.model_fields.items():
        assert isinstance(info.annotation, type)
        assert issubclass(info.annotation, BaseModel)
        keys += [f"{section}.{name}" for name in info.annotation.model_fields]
    return keys
