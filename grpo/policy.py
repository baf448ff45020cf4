"""The policy: a frozen base model and the LoRA adapter that is trained. Touches: disk, GPU.

The reference policy is the same model with its adapter switched off; nothing is kept twice.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from grpo_kernels import PLAIN, Kernels, linear_logp_jac
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.adapted import LAYERS
from grpo.attention import FULL, WINDOWED, Form, by_blocks, seen, use_blocks
from grpo.batch import Batch
from grpo.errors import ModelError
from grpo.folding import fold
from grpo.four_bits import pack, plain_weight
from grpo.reading import Reader
from grpo.sections import Lora

UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""What transformers raises for a directory that is damaged or is no model."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Both [T], fp32 nats; T as in the batch they were computed from."""

    logprobs: Tensor
    entropy: Tensor


class Policy:
    """Base model + adapter on one device. ``model`` is PEFT's; only adapter weights require gradients."""

    def __init__(
        self,
        model: PeftModel,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        temperature: float,
        reader: Reader | None = None,
        kernels: Kernels = PLAIN,
    ) -> None:
        self.model = model
        self.path = path
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.reader = reader or Reader.of(tokenizer, "auto", {})
        self.kernels = kernels
        self.announce: Callable[[Batch], None] = lambda _: None
        """Called before a pass that one rank makes alone: where the base is split, the others must join."""

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        dtype: str,
        lora: Lora,
        seed: int,
        temperature: float,
        device: torch.device,
        packed: bool = False,
        prepare: Callable[[PeftModel], None] = lambda _: None,
    ) -> "Policy":
        """Base model from ``path`` with a fresh adapter whose initialisation depends on ``seed`` alone.

        ``packed``: keep its linear layers in four bits. ``prepare`` gets the model before it moves to the device.
        Raises ModelError when the directory is not a usable model.
        """
        base = load_base(path, dtype)
        if packed:
            pack(base, path, dtype)
        if device.type == "cpu":
            use_blocks(base)
        torch.manual_seed(seed)
        try:
            model = get_peft_model(base, lora_settings(lora, packed=packed), autocast_adapter_dtype=True)
        except (ValueError, re.error) as error:
            raise ModelError(f"{path}: lora.targets = {lora.targets!r} does not fit this model: {error}") from None
        prepare(model)
        return cls(model.to(device).eval(), path, load_tokenizer(path), temperature)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def head(self) -> Tensor:
        """The output embedding [V, H], frozen."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def adapter_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Trainable tensors by name, in a fixed order."""
        return {name: p for name, p in sorted(self.model.named_parameters()) if p.requires_grad}

    def adapter_state(self) -> dict[str, Tensor]:
        """A detached copy of the adapter on the CPU."""
        return {name: p.detach().cpu().clone().contiguous() for name, p in self.adapter_parameters().items()}

    def load_adapter_state(self, state: dict[str, Tensor]) -> None:
        """Overwrite the adapter. Raises ModelError when names or shapes differ."""
        parameters = self.adapter_parameters()
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        if shapes != {name: tuple(value.shape) for name, value in state.items()}:
            raise ModelError(f"{self.path}: the saved adapter has other modules or another rank than lora.* asks for")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def reset_adapter(self) -> None:
        """Make the policy the base model: all B matrices zero."""
        zero = {n: torch.zeros_like(v) if "lora_B" in n else v for n, v in self.adapter_state().items()}
        self.load_adapter_state(zero)

    def stop_ids(self) -> set[int]:
        """Every end-of-sequence id of the generation configuration; some models have several."""
        stop = self.model.get_base_model().generation_config.eos_token_id
        if stop is None:
            stop = self.tokenizer.eos_token_id
        return set(stop) if isinstance(stop, list) else {stop}

    def digest(self) -> str:
        """SHA-256 over the adapter's names and values."""
        return state_digest(self.adapter_state())

    @property
    def forms(self) -> tuple[Form, ...]:
        """Of attention, those that this model's passes may take."""
        return ("rows", "blocks") if by_blocks(self.model.get_base_model().config) else ("rows",)

    def scores(self, batch: Batch, temperature: float | None = None, form: Form = "auto") -> TokenScores:
        """Log-probability and entropy of each completion token, by default at the sampling temperature.

        Follows torch's gradient mode. ``form``: of attention; by default the one that pays.
        """
        decoder = self.model.get_base_model().get_decoder()
        hidden_RLH = decoder(
            input_ids=batch.input_ids_RL,
            position_ids=batch.positions_RL,
            use_cache=False,
            **seen(batch, decoder.config, self.head.dtype, form),
        )[0]
        hidden_TH = hidden_RLH.flatten(0, 1)[batch.source_T]
        heat, estimate = temperature or self.temperature, batch.sampler_logprobs_T
        found = linear_logp_jac(hidden_TH, self.head, batch.target_T, heat, estimate, self.kernels, rounded=True)
        return TokenScores(*found)

    def scores_alone(self, batch: Batch, temperature: float, form: Form = "auto") -> TokenScores:
        """As ``scores``, asked for by the main rank only."""
        self.announce(batch)
        return self.scores(batch, temperature, form)

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Within the block layers keep their input only, and backward passes compute the rest again."""
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        try:
            for layer in layers:
                layer.training = True  # itself alone: what is inside may sample or drop out in training mode
            yield
        finally:
            for layer in layers:
                layer.training = False

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Within the block the adapter is off: the base model."""
        with self.model.disable_adapter():
            yield

    def lora_layers(self) -> dict[str, LoraLayer]:
        """Adapted modules by their name in the base model."""
        return lora_layers(self.model)

    def left_alone(self) -> dict[str, float]:
        """Matrices no adapter reaches, embeddings aside: last two parts of their names, share of all matrices."""
        adapted, total, found = set(self.lora_layers()), 0, Counter[str]()
        embeddings = {id(e.weight) for e in (self.model.get_input_embeddings(), self.model.get_output_embeddings())}
        for name, parameter in self.model.get_base_model().named_parameters():
            if parameter.dim() < 2 or id(parameter) in embeddings or ".lora_" in name:
                continue
            total += parameter.numel()
            if not any(name.startswith(f"{module}.") for module in adapted):
                found[".".join(name.removesuffix(".weight").split(".")[-2:])] += parameter.numel()
        return {name: count / total for name, count in found.most_common()}

    def adapted_bytes(self) -> int:
        """Size of the adapted modules' weights, which is what a merged sync writes."""
        numbers: int = sum(layer.in_features * layer.out_features for layer in self.lora_layers().values())
        return numbers * self.head.element_size()

    def save_adapter(self, directory: Path) -> None:
        """The adapter in PEFT's own format, for vLLM, transformers and anyone else."""
        self.model.save_pretrained(str(directory), safe_serialization=True)

    @torch.no_grad()
    def save_merged(self, path: Path, version: str) -> float:
        """The adapted modules' weights with the adapter folded in, as one safetensors file in the model's dtype.

        Only they: an engine that reloads a tied embedding may keep its old head, and nothing else has changed.
        ``version`` goes into the file's header, where the engine's side reads it back. Returns the share of the update
        that survives rounding (folding.py), <kept, wanted> / <wanted, wanted> over all adapted weights; 1 in exact
        arithmetic.
        """
        merged, kept, wanted = {}, 0.0, 0.0
        for number, (name, layer) in enumerate(self.lora_layers().items()):
            weight = plain_weight(layer.get_base_layer())
            delta = layer.get_delta_weight("default").float()
            folded = fold(weight, delta, number)
            kept += float(torch.dot(folded.to(delta.dtype, copy=True).sub_(weight).flatten(), delta.flatten()))
            wanted += float(torch.dot(delta.flatten(), delta.flatten()))
            merged[f"{name}.weight"] = folded.cpu().contiguous()
        try:
            save_file(merged, path, metadata={"format": "pt", "version": version})
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written: {error}") from None
        return kept / wanted if wanted else 1.0


def lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """Adapted modules by their name in the base model."""
    return {n: m for n, m in model.get_base_model().named_modules() if isinstance(m, LoraLayer)}


def lora_settings(lora: Lora, *, packed: bool = False) -> LoraConfig:
    """PEFT's settings for ours. ``packed``: the layers are in four bits, and PEFT has its own for them."""
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    if not packed:
        settings._register_custom_module(LAYERS)
    return settings


def state_digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes, in name order."""
    sha = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer; it must have a chat template. Raises ModelError."""
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: no config.json there. Set model.path to a directory in Hugging Face format.")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except UNREADABLE as error:
        raise ModelError(f"{path}: its tokenizer cannot be loaded: {error}") from None
    if not tokenizer.chat_template:
        raise ModelError(f"{path}: its tokenizer has no chat template. Use an instruction-tuned model.")
    return tokenizer


def load_base(path: Path, dtype: str) -> Any:
    """The base model, frozen. Raises ModelError."""
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: no config.json there. Set model.path to a directory in Hugging Face format.")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
        )
    except UNREADABLE as error:
        raise ModelError(f"{path}: cannot be loaded as a causal language model: {error}") from None
    kinds = set(getattr(model.config, "layer_types", None) or ()) - {WINDOWED, FULL}
    if kinds:
        raise ModelError(
            f"{path}: has layers of {', '.join(sorted(kinds))}, which carry a state along a row: completions that "
            "share a prompt would see each other. Such models cannot be trained yet"
        )
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # acts in Policy.recomputing
    return model.requires_grad_(False).eval()
