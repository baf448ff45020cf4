"""What a model's config.json says about its size. No weights are needed: the model is built on torch's meta device.

Touches: disk (read).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM

from grpo.errors import ModelError
from grpo.policy import UNREADABLE, lora_settings
from grpo.sections import Lora


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Counts of numbers, not of bytes."""

    parameters: int
    experts: int
    """Of them in experts, which are what MXFP4 stores in four bits."""
    eager: bool
    """Attention keeps its probabilities: transformers has no other form of it for this model."""
    quantised: bool
    """The experts lie on disk in MXFP4."""
    adapter: int
    adapted: int
    """Modules with an adapter."""
    adapted_inputs: int
    """Sum of their input widths."""
    outside: int
    """Of the parameters, those in no layer: embeddings, head, final norm."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    """Width of a feed-forward layer, all active experts together."""
    vocabulary: int
    longest: int
    """Positions."""
    norms: int
    """In a layer, of its whole width."""
    head_norms: bool
    """Queries and keys are normalised, in fp32."""


def shape_of(path: Path, lora: Lora) -> Shape:
    """From ``config.json`` alone. Raises ModelError."""
    config = _read(path)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config)
    parameters = {name: p.numel() for name, p in base.named_parameters()}
    model = _adapted(base, path, lora)
    adapted = [m for m in model.modules() if isinstance(m, LoraLayer)]
    heads = config.num_attention_heads
    active = getattr(config, "num_experts_per_tok", None) or 1
    return Shape(
        parameters=sum(parameters.values()),
        experts=sum(count for name, count in parameters.items() if ".experts." in name),
        eager=not base._supports_sdpa,
        quantised=(getattr(config, "quantization_config", None) or {}).get("quant_method") == "mxfp4",
        adapter=sum(p.numel() for p in model.parameters() if p.requires_grad),
        adapted=len(adapted),
        adapted_inputs=sum(m.in_features for m in adapted),
        outside=sum(count for name, count in parameters.items() if ".layers." not in name),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        inner=config.intermediate_size * active,
        vocabulary=config.vocab_size,
        longest=config.max_position_embeddings,
        norms=sum(1 for name in parameters if ".layers.0." in name and "layernorm." in name),
        head_norms=any(".q_norm." in name for name in parameters),
    )


def adapted_names(path: Path, lora: Lora) -> set[str]:
    """Last parts of the names of modules that get an adapter. Raises ModelError."""
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(_read(path))
    model = _adapted(base, path, lora)
    return {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _adapted(base: Any, path: Path, lora: Lora) -> Any:
    try:
        return get_peft_model(base, lora_settings(lora))
    except ValueError as error:
        raise ModelError(f"{path}: lora.targets = {lora.targets!r} does not fit this model: {error}") from None


def _read(path: Path) -> Any:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: no config.json there. configs/models has those of the usual families.")
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True)
    except UNREADABLE as error:
        raise ModelError(f"{path}: its config.json is of no model that transformers knows: {error}") from None
