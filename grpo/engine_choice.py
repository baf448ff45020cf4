"""Which engine a configuration asks for, and which one proves its sync in fp32. Touches: disk (read), GPU memory."""

import json
import os
from pathlib import Path

from grpo import engine
from grpo.config import Config
from grpo.engine import EngineOptions
from grpo.errors import SetupError
from grpo.rollout import PROBE_TOKENS
from grpo.sections import OWN

PROOF_WORK = 4 * 2**30
"""Bytes for the cache and the work space of an engine that only proves its sync, and for the trainer's."""
BESIDE = 6
"""Times the bytes of weights stored in 16 bits: trainer and engine in fp32 and in bf16."""


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


def compute_dtype(config: Config, device: str) -> str:
    """``auto`` is float32 on a CPU: without AVX-512, bf16 is several times slower there (docs/performance.md)."""
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if device == "cuda" else "float32"


def sync_strategy(config: Config, dtype: str, device: str) -> str:
    """``merged`` or ``adapter``: vLLM's adapter kernels for GPUs take 16-bit inputs only, those for CPUs are slow."""
    if config.update.shard_base:
        return "adapter"
    if config.rollout.sync != "auto":
        return config.rollout.sync
    return "merged" if device == "cpu" or dtype == "float32" else "adapter"


def takes_turns(config: Config, device: str) -> bool:
    """Whether the engine sleeps during updates."""
    return config.rollout.sleep and device == "cuda"


def engine_options(config: Config, dtype: str, device: str, strategy: str, targets: set[str]) -> EngineOptions:
    """The engine that a run asks for; ``targets``: last parts of the adapted modules' names."""
    rollout = config.rollout
    adapter = strategy == "adapter"
    return EngineOptions(
        model=config.model.path,
        dtype=dtype,
        max_model_len=config.data.max_prompt_tokens + max(config.longest_completion, PROBE_TOKENS) + 1,
        device=device,
        compiled=rollout.compile == "always" or (rollout.compile == "auto" and device == "cuda"),
        memory_gib=rollout.engine_memory_gib,
        memory_share=rollout.engine_memory_share,
        seed=config.run.seed,
        sleeps=takes_turns(config, device),
        tensor_parallel=rollout.tensor_parallel,
        lora_rank=config.lora.rank if adapter else None,
        lora_targets=tuple(sorted(targets)) if adapter else (),
    )


def exact_config(config: Config, share: float) -> Config:
    """Of the pair that proves the sync in fp32, with that ``share`` of a card's memory.

    It syncs merged weights; vLLM's adapter kernels have no fp32 form on a GPU.
    """
    changed = {"sync": "merged", "engine_memory_share": share, "tensor_parallel": 1, "sleep": False, "engines": (OWN,)}
    return config.model_copy(update={"rollout": config.rollout.model_copy(update=changed)})


def proves_beside(config: Config, device: str) -> bool:
    """Whether the pair that proves the sync in fp32 starts together with the run's own, which saves its starting time.

    On a CPU, where both fit into half of the memory; on a card the run's engine takes what the proof left.
    """
    stored = sum(file.stat().st_size for file in config.model.path.glob("*.safetensors"))
    caches = 2 * config.rollout.engine_memory_gib * 2**30
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return device == "cpu" and BESIDE * stored + caches < physical / 2


def why_no_proof(config: Config, share: float | None) -> str | None:
    """What stands in the way of a pair in fp32; ``share`` as ``share_for_proof`` gives it."""
    if OWN not in config.rollout.engines:
        return "no engine runs here"
    if config.update.shard_base:
        return "the model is split over ranks"
    return "the model is quantised, or two such copies do not fit on one card" if share is None else None


def share_for_proof(model: Path, device: str) -> float | None:
    """Of a card's memory for an fp32 engine beside an fp32 trainer; None where both do not fit, or MXFP4 is in it."""
    if "quantization_config" in json.loads((model / "config.json").read_text()):
        return None
    if device != "cuda":
        return 0.5
    import torch  # only here: an engine on a CPU is chosen before torch is imported

    weights = 2 * sum(file.stat().st_size for file in model.glob("*.safetensors"))  # stored in 16 bits
    free, total = torch.cuda.mem_get_info()
    engine = weights + PROOF_WORK
    return engine / total if weights + engine + PROOF_WORK <= free else None
