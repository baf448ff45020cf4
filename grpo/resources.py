"""Opens what a run needs - policy, sampler, reward function, log - and closes it again. Touches: everything.

Only the main rank samples, scores and writes; the other ranks of an ``accelerate launch`` receive its groups.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from grpo import engine, prompts
from grpo.checkpoint import Checkpoints
from grpo.config import Config
from grpo.display import Display
from grpo.errors import SetupError
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy, load_tokenizer
from grpo.rewards import RewardFunction
from grpo.rollout import Sampler
from grpo.runlog import RunLog
from grpo.sync import SyncProof
from grpo.types import Prompt
from grpo.update import Updater
from grpo.vllm_sampler import VllmSampler

Shared = TypeVar("Shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The prompt files of a run; a file that is not configured is an empty list."""

    train: list[Prompt]
    heldout: list[Prompt]
    test: list[Prompt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Main:
    """What only the main rank has."""

    sampler: Sampler
    reward: RewardFunction
    log: RunLog
    proof: SyncProof


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the loop works with."""

    config: Config
    accelerator: Accelerator
    display: Display
    policy: Policy
    updater: Updater
    checkpoints: Checkpoints
    splits: Splits
    main: Main | None

    def share(self, value: Shared | None) -> Shared:
        """The main rank's value, on every rank."""
        if self.accelerator.num_processes > 1:
            (value,) = broadcast_object_list([value])
        assert value is not None
        return value


def compute_dtype(config: Config, device: torch.device) -> str:
    """``auto`` is float32 on a CPU: without AVX-512, bf16 is several times slower there (docs/performance.md)."""
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if device.type == "cuda" else "float32"


def load_splits(config: Config) -> Splits:
    """Read and tokenise every prompt file; all of it before anything slow starts. Raises DataError, ModelError."""
    tokenizer = load_tokenizer(config.model.path)

    def read(path: Path | None) -> list[Prompt]:
        return prompts.load(path, tokenizer, config.data.max_prompt_tokens) if path else []

    return Splits(train=read(config.data.train), heldout=read(config.data.heldout), test=read(config.data.test))


def load_policy(config: Config, device: torch.device, dtype: str) -> Policy:
    """The configured base model with a fresh adapter. Raises ModelError."""
    return Policy.load(
        config.model.path,
        dtype=dtype,
        lora=config.lora,
        seed=config.run.seed,
        temperature=config.rollout.temperature,
        device=device,
    )


def choose_sampler(config: Config) -> str:
    """vllm where it is installed, else transformers. Raises SetupError when vLLM is asked for and missing."""
    if config.rollout.sampler == "transformers":
        return "transformers"
    if engine.installed():
        return "vllm"
    if config.rollout.sampler == "vllm":
        raise SetupError("rollout.sampler = vllm, but vLLM is not installed. `grpo doctor` says how to install it")
    return "transformers"


@contextmanager
def open_sampler(config: Config, policy: Policy, dtype: str, log: RunLog, display: Display) -> Iterator[Sampler]:
    """The sampler the configuration asks for; its process ends with the block."""
    kind = choose_sampler(config)
    if kind == "transformers":
        if config.rollout.sampler == "auto":
            display.note("vLLM is not installed: transformers samples instead, several times slower")
        yield TransformersSampler(policy)
        return

    def restarted(reason: str) -> None:
        log.event("engine_down", reason=reason)
        display.note(f"the rollout engine failed ({reason}); restarting it")

    with display.status("starting the rollout engine"):
        sampler = VllmSampler(config, policy, dtype=dtype, log=log.directory / "engine.log", on_restart=restarted)
    try:
        yield sampler
    finally:
        sampler.close()


def prove_sync(
    config: Config, policy: Policy, sampler: Sampler, splits: Splits, dtype: str, log: RunLog, display: Display
) -> SyncProof:
    """Prove with the run's own pair that the sampler follows the trainer."""
    ids = [p.token_ids for p in splits.train]
    with display.status("proving that the sampler follows the trainer"):
        proof = SyncProof.establish(policy, sampler, ids, dtype, config.run.seed)
    log.event("sync_proved", sampler=sampler.name, noise=proof.noise)
    return proof


def prove_exactly(config: Config, device: torch.device, splits: Splits, log: RunLog, display: Display) -> None:
    """In fp32, where the two implementations can be compared to 1e-4: a pair of its own, gone before the run's opens.

    It syncs merged weights; vLLM's adapter kernels have no fp32 form on a GPU.
    """
    merged = config.model_copy(update={"rollout": config.rollout.model_copy(update={"sync": "merged"})})
    policy = load_policy(config, device, "float32")
    with open_sampler(merged, policy, "float32", log, display) as sampler, display.status("proving the sync in fp32"):
        ids = [p.token_ids for p in splits.train]
        SyncProof.establish(policy, sampler, ids, "float32", config.run.seed)
    del policy
    torch.cuda.empty_cache()


@contextmanager
def open_resources(config: Config, accelerator: Accelerator, display: Display) -> Iterator[Resources]:
    """Everything a run needs, cheapest checks first: files and reward function before models and engines."""
    with ExitStack() as stack:
        splits = load_splits(config)
        log = RunLog(config.run.dir) if accelerator.is_main_process else None
        reward = None
        if log:
            log.claim(config.model_dump(mode="json"), config.digest())
            reward = RewardFunction(config.reward, log.directory / "reward.log")
            stack.callback(reward.close)
        accelerator.wait_for_everyone()
        dtype = compute_dtype(config, accelerator.device)
        if log and dtype != "float32":
            prove_exactly(config, accelerator.device, splits, log, display)
        with display.status(f"loading {config.model.path} in {dtype}"):
            policy = load_policy(config, accelerator.device, dtype)
        resources = Resources(
            config=config,
            accelerator=accelerator,
            display=display,
            policy=policy,
            updater=Updater(policy, config.update, accelerator, config.run.steps),
            checkpoints=Checkpoints(config.run.dir),
            splits=splits,
            main=None,
        )
        if log and reward:
            resources.checkpoints.sweep()
            sampler = stack.enter_context(open_sampler(config, policy, dtype, log, display))
            proof = prove_sync(config, policy, sampler, splits, dtype, log, display)
            resources = replace(resources, main=Main(sampler=sampler, reward=reward, log=log, proof=proof))
        yield resources
