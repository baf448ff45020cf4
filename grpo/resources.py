"""Opens what a run needs - policy, sampler, reward function, log - and closes it again. Touches: everything.

Only the main rank samples, scores and writes; the other ranks of an ``accelerate launch`` receive its groups.
"""

import gc
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator

from grpo import ranks
from grpo.checkpoint import Checkpoints
from grpo.config import Config
from grpo.display import Display
from grpo.engine_choice import compute_dtype, proves_beside
from grpo.episodes import Player
from grpo.headstart import HeadStart
from grpo.kernel_proof import prove_kernels
from grpo.policy import Policy, load_tokenizer
from grpo.prompts import PromptFile
from grpo.rewards import RewardFunction
from grpo.rollout import Sampler
from grpo.runlog import RunLog
from grpo.samplers import launch_sampler, load_policy, open_player, prove_exactly, prove_sync, wait_ready
from grpo.sandbox import why_not
from grpo.sharding import shard
from grpo.sinks import Sink
from grpo.sync import Proofs
from grpo.types import Prompt
from grpo.update import Updater

Shared = TypeVar("Shared")
SMALL_SHARE = 0.01
"""Of a model's weights; less than that without an adapter is not worth a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The prompt files of a run; a file that is not configured has no prompts."""

    train: Seq[Prompt]
    heldout: Seq[Prompt]
    test: Seq[Prompt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Main:
    """What only the main rank has."""

    player: Player
    reward: RewardFunction
    log: RunLog
    proof: Proofs
    sinks: list[Sink]
    """Opened when the run resumes, from what it did before."""

    @property
    def sampler(self) -> Sampler:
        """Whose completions the player collects."""
        return self.player.sampler


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
        return ranks.share(self.accelerator, self.policy, value)


def load_splits(config: Config) -> Splits:
    """Read and tokenise every prompt file; all of it before anything slow starts. Raises DataError, ModelError."""
    tokenizer = load_tokenizer(config.model.path)

    def read(path: Path | None) -> Seq[Prompt]:
        return PromptFile(path, tokenizer, config.data.max_prompt_tokens, config.model.template) if path else ()

    return Splits(train=read(config.data.train), heldout=read(config.data.heldout), test=read(config.data.test))


def load_in_turn(config: Config, accelerator: Accelerator, dtype: str) -> Policy:
    """As ``load_policy``, split over the ranks; one rank after the other, for each has the whole model for a moment."""
    policy = None
    for rank in range(accelerator.num_processes):
        if rank == accelerator.process_index:
            policy = load_policy(config, accelerator.device, dtype, lambda model: shard(model, accelerator))
        accelerator.wait_for_everyone()
    assert policy is not None
    return policy


def tell_reach(policy: Policy, display: Display) -> None:
    """Which matrices stay as they are: experts, for instance, which are no linear layers."""
    alone = {name: share for name, share in policy.left_alone().items() if share > SMALL_SHARE}
    if alone:
        shares = ", ".join(f"{name} ({share:.0%} of all weights)" for name, share in alone.items())
        display.note(f"the adapter does not reach {shares}")


def close_all(sinks: list[Sink]) -> None:
    """Those that were opened by then."""
    for sink in sinks:
        sink.close()


def open_main(
    stack: ExitStack,
    resources: Resources,
    reward: RewardFunction,
    log: RunLog,
    dtype: str,
    early: HeadStart | None,
    *,
    exact: bool,
) -> Main:
    """What only the main rank has, closed by ``stack``. ``exact``: prove the sync in fp32 while the engine starts."""
    config, policy, display = resources.config, resources.policy, resources.display
    prompts = resources.splits.train
    sampler = stack.enter_context(launch_sampler(config, policy, dtype, log, display, early))
    if exact:
        prove_exactly(config, policy.device, prompts, log, display, early)
        gc.collect()
    wait_ready(sampler, display)
    if early:
        early.close()
    proof = prove_sync(config, policy, sampler, prompts, dtype, log, display)
    player = stack.enter_context(open_player(config, policy, sampler, log.directory))
    sinks: list[Sink] = []
    stack.callback(close_all, sinks)
    return Main(player=player, reward=reward, log=log, proof=proof, sinks=sinks)


@contextmanager
def open_resources(
    config: Config, accelerator: Accelerator, display: Display, early: HeadStart | None = None
) -> Iterator[Resources]:
    """Everything a run needs, cheapest checks first: files and reward function before models and engines.

    ``early``: engines that were launched before.
    """
    with ExitStack() as stack:
        with display.status("reading the prompts"):
            splits = load_splits(config)
        log = RunLog(config.run.dir) if accelerator.is_main_process else None
        reward = None
        if log:
            log.claim(config.model_dump(mode="json"), config.digest())
            reward = RewardFunction(config.reward, log.directory / "reward.log")
            stack.callback(reward.close)
            log.event("reward_function", sandbox=reward.sandbox)
            if reward.sandbox not in (None, "strong"):
                display.note(f"the reward function's sandbox is {reward.sandbox}: {why_not('strong')}")
        accelerator.wait_for_everyone()
        dtype = compute_dtype(config, accelerator.device.type)
        beside = proves_beside(config, accelerator.device.type)
        if log and dtype != "float32" and not beside:
            prove_exactly(config, accelerator.device, splits.train, log, display, early)
            gc.collect()
            torch.cuda.empty_cache()  # the run's own engine counts what is free
        with display.status(f"loading {config.model.path} in {dtype}"):
            policy = (
                load_in_turn(config, accelerator, dtype)
                if config.update.shard_base
                else load_policy(config, accelerator.device, dtype)
            )
        if log and policy.kernels.name != "plain":
            log.event("kernels_proved", **asdict(prove_kernels(policy.kernels, policy.head)))
        tell_reach(policy, display)
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
            if config.update.shard_base:
                policy.announce = ranks.announce
            main = open_main(stack, resources, reward, log, dtype, early, exact=beside and dtype != "float32")
            resources = replace(resources, main=main)
        yield resources
