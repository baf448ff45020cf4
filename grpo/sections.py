"""The tables of a configuration file, one class each. Pure."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
    tensorboard: bool = True
    """Write the metrics as TensorBoard's event files, too, in the run's directory."""


class Model(Section):
    """The base model, in Hugging Face form, on disk."""

    path: Path
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of trainer and engine alike. auto: bfloat16 on a GPU, float32 on a CPU."""
    reasoning: Literal["auto", "none", "think", "harmony"] = "auto"
    """How a model that thinks before it answers marks its thoughts. auto: as its chat template shows."""
    template: dict[str, Any] = {}
    """Options of the model's chat template, for instance enable_thinking or reasoning_effort."""


class Data(Section):
    """Prompt files, JSON lines in Bedrock's form."""

    train: Path
    heldout: Path | None = None
    """Scored during the run; chooses the checkpoint."""
    test: Path | None = None
    """Scored once, base and tuned, after the checkpoint is chosen."""
    max_prompt_tokens: int = Field(512, ge=1)


BUILT_IN = Path(__file__).parent / "graders"
Builtin = Literal["exact", "regex", "math", "json_schema", "sql", "python_tests", "judge"]


class Source(Section):
    """One reward function with Bedrock's Lambda contract: one of ``file``, ``url``, ``function``, ``builtin``."""

    file: Path | None = None
    """A Python file, run in a sandbox of its own."""
    url: str | None = None
    """The invocation URL of a local Lambda (RIE, SAM): http://HOST/2015-03-31/functions/NAME/invocations."""
    function: str | None = None
    """Name or ARN of a function at AWS, called with boto3 and the usual credentials."""
    builtin: Builtin | None = None
    """A grader of ours, grpo/graders/grade_NAME.py; in the sandbox like any other."""
    options: dict[str, Any] = {}
    """The built-in grader's settings."""
    handler: str = "lambda_handler"
    environment: dict[str, str] = {}
    """Variables that the function's code sees."""
    network: bool = False
    """Whether the function's code may use the network."""

    def named(self) -> int:
        """How many sources are given."""
        return sum(source is not None for source in (self.file, self.url, self.function, self.builtin))

    @model_validator(mode="after")
    def _options_belong(self) -> "Source":
        if self.options and self.builtin is None:
            raise ValueError("options are those of a built-in grader; a function of your own reads its environment")
        return self


class Grader(Source):
    """One of several, in ``[[reward.graders]]``."""

    name: str = Field(min_length=1, max_length=64)
    weight: float = Field(1.0, allow_inf_nan=False)
    """The reward is the sum of all scores times their weights."""

    @model_validator(mode="after")
    def _one_source(self) -> "Grader":
        if self.named() != 1:
            raise ValueError("set exactly one of file, url, function, builtin")
        return self


class Reward(Source):
    """Where rewards come from and how patiently: one function, or several in ``graders``."""

    graders: tuple[Grader, ...] = ()
    timeout_s: float = Field(60.0, gt=0)
    """For one call; a call that takes longer is killed and its samples are retried one by one."""
    batch_size: int = Field(64, ge=1)
    concurrency: int = Field(1, ge=1, le=256)
    """Batches scored at the same time."""
    memory_gib: float = Field(2.0, gt=0)
    sandbox: Literal["auto", "strong", "medium", "weak"] = "auto"
    """auto: the strongest that this machine has; docs/sandbox.md."""
    retries: int = Field(0, ge=0)
    """More calls for a sample whose scoring failed."""
    max_error_share: float = Field(1.0, ge=0, le=1)
    """The run ends when a larger share of a step's completions could not be scored."""

    @model_validator(mode="after")
    def _one_source(self) -> "Reward":
        if self.named() != (0 if self.graders else 1):
            raise ValueError(
                "set exactly one of reward.file, reward.url, reward.function, reward.builtin, or several as "
                "[[reward.graders]]"
            )
        lost = [name for name in ("handler", "environment", "network") if name in self.model_fields_set]
        if self.graders and lost:
            raise ValueError(f"reward.{lost[0]} belongs into each of [[reward.graders]]: it would be ignored here")
        names = [grader.name for grader in self.graders]
        if len(set(names)) < len(names):
            raise ValueError(f"reward.graders: two have the same name: {', '.join(names)}")
        return self

    def sources(self) -> list[tuple[str, float, "Reward"]]:
        """(name, weight, settings with that one source) of every grader; a single function has the name ``reward``."""
        if not self.graders:
            return [("reward", 1.0, self)]
        patience = {name: getattr(self, name) for name in Reward.model_fields if name not in Grader.model_fields}
        del patience["graders"]
        return [
            (grader.name, grader.weight, Reward(**grader.model_dump(exclude={"name", "weight"}), **patience))
            for grader in self.graders
        ]

    def files(self) -> list[Path]:
        """Reward code on this machine."""
        return [file for _, _, settings in self.sources() if (file := settings.code())]

    def code(self) -> Path | None:
        """The file of this one function; None where it runs elsewhere."""
        return BUILT_IN / f"grade_{self.builtin}.py" if self.builtin else self.file


class Environment(Section):
    """A program of the user's that answers the policy between its turns (docs/environments.md)."""

    file: Path
    """A Python file, run in a sandbox of its own."""
    handler: str = "environment_handler"
    variables: dict[str, str] = {}
    """Environment variables that the code sees."""
    network: bool = False
    max_turns: int = Field(4, ge=2, le=64)
    """The most of the policy in one completion; each has rollout.max_tokens."""
    max_reply_tokens: int = Field(256, ge=1)
    """Of the environment, with the template's tokens around it; a longer one breaks the episode off."""
    timeout_s: float = Field(60.0, gt=0)
    batch_size: int = Field(64, ge=1)
    concurrency: int = Field(1, ge=1, le=256)
    memory_gib: float = Field(2.0, gt=0)
    sandbox: Literal["auto", "strong", "medium", "weak"] = "auto"

    def source(self) -> Reward:
        """As the function it is called like."""
        same = {name: getattr(self, name) for name in Environment.model_fields if name in Reward.model_fields}
        return Reward(**same, environment=self.variables)


OWN = "own"


class Rollout(Section):
    """How completions are sampled."""

    sampler: Literal["auto", "vllm", "transformers"] = "auto"
    engines: tuple[str, ...] = (OWN,)
    """The engines that sample: "own", and URLs of others that ``grpo engine`` started (docs/engines.md)."""
    shared_dir: Path | None = None
    """Where weights for engines elsewhere are put: a directory that all machines see. None: in the run's directory."""
    prompts_per_step: int = Field(16, ge=1)
    completions_per_prompt: int = Field(8, ge=2)
    refill_rounds: int = Field(0, ge=0, le=10)
    """How often a step may sample other prompts in place of groups without signal (DAPO's dynamic sampling)."""
    skip_silent: bool = False
    """Leave out prompts whose completions will most likely be scored alike (docs/prompts.md)."""
    max_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0)
    sync: Literal["auto", "adapter", "merged"] = "auto"
    """How new weights reach the engine. auto: merged on a CPU, adapter on a GPU."""
    engine_memory_gib: float = Field(1.0, gt=0)
    engine_memory_share: float = Field(0.4, gt=0, le=0.95)
    """What the engine may take: on a CPU a KV cache of so many GiB, on a GPU that share of its memory."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Whether vLLM compiles the model. auto: on a GPU, where its start is short beside what it gains."""
    tensor_parallel: int = Field(1, ge=1, le=8)
    """GPUs over which the engine's weights are split."""
    sleep: bool = False
    """On a GPU: the engine hands its memory back while the policy is updated, so that its share may be large."""
    ahead: bool = False
    """Sample the next step's completions while this one trains: they are one update old (docs/performance.md)."""
    timeout_s: float = Field(600.0, gt=0)
    """For the requests of one step together; then the engine counts as hung and is restarted."""
    restarts: int = Field(3, ge=0)
    """Engine restarts within one request before the run ends."""

    @model_validator(mode="after")
    def _engines(self) -> "Rollout":
        if not self.engines or len(set(self.engines)) < len(self.engines):
            raise ValueError("rollout.engines: name each engine once, and at least one")
        for engine in self.engines:
            if engine != OWN and not re.fullmatch(r"https?://[^/?#@]+", engine):
                raise ValueError(f"rollout.engines: {engine!r} is neither {OWN!r} nor http://HOST:PORT")
        if self.sampler == "transformers" and self.engines != (OWN,):
            raise ValueError("rollout.engines are vLLM's, and rollout.sampler = transformers")
        return self


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
    loss: Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo"] = "dapo"
    """Which tokens count how much, and what is clipped; docs/losses.md."""
    advantages: Literal["std", "none", "leave_one_out"] = "std"
    """std: GRPO, arXiv 2402.03300; none: Dr. GRPO, arXiv 2503.20783; leave_one_out: RLOO, arXiv 2402.14740."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    """Larger than clip_low: "clip-higher", DAPO, arXiv 2503.14476."""
    importance: Literal["truncated", "none"] = "truncated"
    importance_cap: float = Field(2.0, ge=1)
    """A token is weighted for the gap between trainer and sampler, by no more than the cap; none: as if none were."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL term against the base model; 0 skips its forward pass."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    mask_truncated: bool = False
    """Leave completions that were cut at the limit out of the loss; their rewards still count in the group's mean."""
    overlong_buffer: int = Field(0, ge=0)
    overlong_penalty: float = Field(1.0, gt=0)
    """Within so many tokens before the limit (0: none) the reward is lowered, more and more, to the penalty at it."""
    max_grad_norm: float = Field(1.0, gt=0)
    kernels: Literal["auto", "fused", "plain"] = "auto"
    """fused: in Triton, for CUDA; plain: in torch. auto: fused on a GPU."""
    tokens_per_microbatch: int = Field(8192, ge=64)
    gradient_checkpointing: bool = False
    """Keep one activation a layer and compute the rest again in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the trainer's layers, a CPU's kernels too (torch.compile): shorter passes for minutes of compiling."""
    shard_base: bool = False
    """Split the frozen model over the ranks of a launch (FSDP2): for models larger than a card."""
    pack_base: bool = False
    """QLoRA: keep the trainer's frozen linear layers in NF4; the model must be one that `grpo quantise` made."""


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
