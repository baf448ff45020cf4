"""Opens the sampler a configuration asks for, and proves that it follows the trainer. Touches: processes, GPU, disk."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from grpo_kernels import Kernels, choose

from grpo import kept_proof
from grpo.compilation import compile_layers
from grpo.config import Config
from grpo.display import Display
from grpo.engine_choice import choose_sampler, exact_config, share_for_proof, why_no_proof
from grpo.episodes import Environment, Player
from grpo.errors import SetupError
from grpo.headstart import HeadStart
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy
from grpo.reading import Reader
from grpo.replicas import Replicas
from grpo.rewards import Pool
from grpo.rollout import Sampler
from grpo.runlog import RunLog
from grpo.sync import PROBE_PROMPTS, Proofs, SyncProof
from grpo.types import Prompt
from grpo.vllm_sampler import VllmSampler


def load_policy(
    config: Config,
    device: torch.device,
    dtype: str,
    prepare: Callable[[Any], None] = lambda _: None,
    *,
    whole: bool = False,
) -> Policy:
    """The configured base model with a fresh adapter; ``prepare`` as in Policy.load. Raises ModelError.

    ``whole``: with all bits of its numbers, whatever ``update.pack_base`` says.
    """
    policy = Policy.load(
        config.model.path,
        dtype=dtype,
        lora=config.lora,
        seed=config.run.seed,
        temperature=config.rollout.temperature,
        device=device,
        packed=config.update.pack_base and not whole,
        prepare=prepare,
    )
    if config.update.compile:
        if choose_sampler(config) != "vllm":
            raise SetupError("update.compile needs vLLM: transformers samples with the layers that are trained")
        compile_layers(policy)
    policy.kernels = kernels_of(config, device)
    policy.reader = Reader.of(policy.tokenizer, config.model.reasoning, config.model.template)
    return policy


def kernels_of(config: Config, device: torch.device) -> Kernels:
    """The form of the kernels the configuration asks for. Raises SetupError where it cannot run."""
    try:
        return choose(config.update.kernels, device, compiled=config.update.compile)
    except RuntimeError as error:
        raise SetupError(f"update.kernels = {config.update.kernels}: {error}") from None


@contextmanager
def open_sampler(config: Config, policy: Policy, dtype: str, log: RunLog, display: Display) -> Iterator[Sampler]:
    """The sampler the configuration asks for, ready; its process ends with the block."""
    with launch_sampler(config, policy, dtype, log, display) as sampler:
        wait_ready(sampler, display)
        yield sampler


def wait_ready(sampler: Sampler, display: Display) -> None:
    """Until a launched sampler can be used. Raises EngineError."""
    if not isinstance(sampler, TransformersSampler):
        with display.status("starting the rollout engine"):
            sampler.ready()


@contextmanager
def launch_sampler(
    config: Config, policy: Policy, dtype: str, log: RunLog, display: Display, early: HeadStart | None = None
) -> Iterator[Sampler]:
    """The sampler the configuration asks for, its engine still coming up; its process ends with the block.

    ``early``: engines that were launched before.
    """
    kind = choose_sampler(config)
    if kind == "transformers":
        if config.rollout.sampler == "auto":
            display.note("vLLM is not installed: transformers samples instead, several times slower")
        yield TransformersSampler(policy)
        return

    def restarted(reason: str) -> None:
        log.event("engine_down", reason=reason)
        display.note(f"the rollout engine failed ({reason}); restarting it")

    with ExitStack() as stack:
        samplers = []
        for at in config.rollout.engines:
            file = log.directory / "engine.log"
            samplers.append(
                VllmSampler(config, policy, dtype=dtype, log=file, on_restart=restarted, at=at, early=early)
            )
            stack.callback(samplers[-1].close)
        yield samplers[0] if len(samplers) == 1 else Replicas(samplers)


@contextmanager
def open_player(config: Config, policy: Policy, sampler: Sampler, directory: Path) -> Iterator[Player]:
    """The sampler, with the environment the configuration asks for; its process ends with the block."""
    settings = config.environment
    if settings is None:
        yield Player(sampler)
        return
    pool = Pool(settings.source(), directory / "environment.log")
    try:
        environment = Environment(
            pool,
            policy.tokenizer,
            policy.stop_ids(),
            turns=settings.max_turns,
            longest=settings.max_reply_tokens,
            template=config.model.template,
        )
        yield Player(sampler, environment)
    finally:
        pool.close()


def prove_sync(
    config: Config, policy: Policy, sampler: Sampler, prompts: Seq[Prompt], dtype: str, log: RunLog, display: Display
) -> Proofs:
    """Prove with the run's own pair that the sampler follows the trainer, each engine by itself."""
    ids = [p.token_ids for p in prompts[:PROBE_PROMPTS]]
    each = sampler.samplers if isinstance(sampler, Replicas) else (sampler,)
    with display.status("proving that the sampler follows the trainer"):
        proofs = [SyncProof.establish(policy, one, ids, dtype, config.run.seed) for one in each]
    for proof in proofs:
        log.event("sync_proved", sampler=proof.sampler.name, noise=proof.noise)
    return Proofs(proofs)


def prove_exactly(
    config: Config, device: torch.device, prompts: Seq[Prompt], log: RunLog, display: Display, early: HeadStart | None
) -> None:
    """In fp32, where the two implementations can be compared to 1e-4: a pair of its own, gone when this returns.

    Not again what was proved before on this machine (kept_proof.py).
    """
    place = kept_proof.Place(config, device.type)
    if kept := place.find():
        log.event("sync_proved_in_fp32", noise=kept.noise, proved_at=kept.proved)
        return
    share = share_for_proof(config.model.path, device.type)
    reason = why_no_proof(config, share)
    if reason or share is None:
        log.event("no_proof_in_fp32", reason=reason)
        display.note(f"no proof in fp32: {reason}; the run's own pair is proved")
        return
    exact = exact_config(config, share)
    policy = load_policy(config, device, "float32", whole=True)
    ids = [p.token_ids for p in prompts[:PROBE_PROMPTS]]
    with launch_sampler(exact, policy, "float32", log, display, early) as sampler:
        wait_ready(sampler, display)
        with display.status("proving the sync in fp32"):
            proof = SyncProof.establish(policy, sampler, ids, "float32", config.run.seed)
    log.event("sync_proved_in_fp32", noise=proof.noise)
    if reason := place.keep(proof.noise):
        log.event("proof_not_kept", reason=reason)
