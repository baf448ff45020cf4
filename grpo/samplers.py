"""Opens the sampler a configuration asks for, and proves that it follows the trainer. Touches: processes, GPU, disk."""

import json
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from grpo_kernels import Kernels, choose

from grpo import engine
from grpo.config import Config
from grpo.display import Display
from grpo.episodes import Environment, Player
from grpo.errors import SetupError
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy
from grpo.reading import Reader
from grpo.replicas import Replicas
from grpo.rewards import Pool
from grpo.rollout import Sampler
from grpo.runlog import RunLog
from grpo.sections import OWN
from grpo.sync import PROBE_PROMPTS, Proofs, SyncProof
from grpo.types import Prompt
from grpo.vllm_sampler import VllmSampler

PROOF_WORK = 4 * 2**30
"""Bytes for the cache and the work space of an engine that only proves its sync, and for the trainer's."""


def compute_dtype(config: Config, device: torch.device) -> str:
    """``auto`` is float32 on a CPU: without AVX-512, bf16 is several times slower there (docs/performance.md)."""
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if device.type == "cuda" else "float32"


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
    policy.kernels = kernels_of(config, device)
    policy.reader = Reader.of(policy.tokenizer, config.model.reasoning, config.model.template)
    return policy


def kernels_of(config: Config, device: torch.device) -> Kernels:
    """The form of the kernels the configuration asks for. Raises SetupError where it cannot run."""
    try:
        return choose(config.update.kernels, device)
    except RuntimeError as error:
        raise SetupError(f"update.kernels = {config.update.kernels}: {error}") from None


def choose_sampler(config: Config) -> str:
    """vllm where it is installed, else transformers. Raises SetupError when vLLM is asked for and missing."""
    if config.rollout.sampler == "transformers":
        return "transformers"
    if engine.installed() or OWN not in config.rollout.engines:
        return "vllm"
    if config.rollout.sampler == "vllm" or config.rollout.ahead:
        asked = "sampler = vllm" if config.rollout.sampler == "vllm" else "ahead = true"
        raise SetupError(f"rollout.{asked}, but vLLM is not installed. `grpo doctor` says how to install it")
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

    with ExitStack() as stack, display.status("starting the rollout engine"):
        samplers = []
        for at in config.rollout.engines:
            samplers.append(
                VllmSampler(config, policy, dtype=dtype, log=log.directory / "engine.log", on_restart=restarted, at=at)
            )
            stack.callback(samplers[-1].close)
        opened = stack.pop_all()
    with opened:
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


def prove_exactly(config: Config, device: torch.device, prompts: Seq[Prompt], log: RunLog, display: Display) -> None:
    """In fp32, where the two implementations can be compared to 1e-4: a pair of its own, gone before the run's opens.

    It syncs merged weights; vLLM's adapter kernels have no fp32 form on a GPU.
    """
    share = share_for_proof(config.model.path, device)
    if reason := why_no_proof(config, share):
        log.event("no_proof_in_fp32", reason=reason)
        display.note(f"no proof in fp32: {reason}; the run's own pair is proved")
        return
    changed = {"sync": "merged", "engine_memory_share": share, "tensor_parallel": 1, "sleep": False, "engines": (OWN,)}
    merged = config.model_copy(update={"rollout": config.rollout.model_copy(update=changed)})
    policy = load_policy(config, device, "float32", whole=True)
    with open_sampler(merged, policy, "float32", log, display) as sampler, display.status("proving the sync in fp32"):
        ids = [p.token_ids for p in prompts[:PROBE_PROMPTS]]
        proof = SyncProof.establish(policy, sampler, ids, "float32", config.run.seed)
    log.event("sync_proved_in_fp32", noise=proof.noise)


def why_no_proof(config: Config, share: float | None) -> str | None:
    """What stands in the way of a pair in fp32; ``share`` as ``share_for_proof`` gives it."""
    if OWN not in config.rollout.engines:
        return "no engine runs here"
    if config.update.shard_base:
        return "the model is split over ranks"
    return "the model is quantised, or two such copies do not fit on one card" if share is None else None


def share_for_proof(model: Path, device: torch.device) -> float | None:
    """Of a card's memory for an fp32 engine beside an fp32 trainer; None where both do not fit, or MXFP4 is in it."""
    if "quantization_config" in json.loads((model / "config.json").read_text()):
        return None
    if device.type != "cuda":
        return 0.5
    weights = 2 * sum(file.stat().st_size for file in model.glob("*.safetensors"))  # stored in 16 bits
    free, total = torch.cuda.mem_get_info(device)
    engine = weights + PROOF_WORK
    return engine / total if weights + engine + PROOF_WORK <= free else None
