"""A frozen base in four bits a number: NF4 in blocks of 64, as in QLoRA (arXiv 2305.14314). Touches: disk, GPU.

``grpo quantise`` moves a model's weights onto NF4's grid and writes them as ordinary 16-bit numbers. Packing those
loses nothing, so that trainer, engine, evaluation and export have the same model, and only the trainer keeps it packed.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grpo.errors import ModelError, SetupError

MARK = "nf4_grid"
"""Key in config.json: the dtype in which the weights lie on the grid; in another they are rounded off it."""


def move_to_grid(model: Any, dtype: str) -> float:
    """Round the linear layers' weights to the grid in place, and mark the model's configuration.

    Returns the relative change, |new - old| / |old| over all of them.
    """
    changed = total = 0.0
    for layer in linear_layers(model).values():
        old = layer.weight.detach().clone()
        with torch.no_grad():
            layer.weight.copy_(_unpacked(_packed(old)))
        changed += float((layer.weight.float() - old.float()).square().sum())
        total += float(old.float().square().sum())
    setattr(model.config, MARK, dtype)
    return float((changed / total) ** 0.5)


def pack(model: Any, path: Path, dtype: str) -> None:
    """Replace the model's linear layers by packed ones of equal values. Raises ModelError where they would differ."""
    if (found := getattr(model.config, MARK, None)) != dtype:
        where = f"lies on NF4's grid in {found}" if found else "does not lie on NF4's grid"
        raise ModelError(
            f"{path}: update.pack_base is set, and this model {where}, not in {dtype}. "
            f"Make one that does: grpo quantise {path} NEW_DIRECTORY --dtype {dtype}"
        )
    if not find_spec("bitsandbytes"):
        raise SetupError("update.pack_base needs bitsandbytes, which is not installed: pip install bitsandbytes")
    for name, layer in linear_layers(model).items():
        packed = _packed_layer(layer)
        if not torch.equal(plain_weight(packed), layer.weight):
            raise ModelError(f"{path}: {name} does not lie on NF4's grid; make the model anew with grpo quantise")
        model.set_submodule(name, packed)
    model.is_loaded_in_4bit = True  # PEFT asks for it


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """Those that are packed, by name: all but the head."""
    head = model.get_output_embeddings()
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}


def plain_weight(layer: nn.Module) -> Tensor:
    """A linear layer's weight [out, in] as numbers, whether it is packed or not."""
    weight = layer.weight
    return _unpacked(weight) if hasattr(weight, "quant_state") else weight.detach()


def _packed_layer(layer: nn.Linear) -> Any:
    from bitsandbytes.nn import Linear4bit

    packed = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        compress_statistics=False,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = _packed(layer.weight, packed)
    packed.bias = layer.bias
    packed.support_avx512bf16_for_cpu = False  # it packs once more for inference, and backward passes fail then
    return packed.eval()


def _packed(weight: Tensor, module: nn.Module | None = None) -> Any:
    from bitsandbytes.nn import Params4bit

    values = weight.detach()
    packed = Params4bit(values, False, None, 64, False, "nf4", torch.uint8, module)
    return packed.to(values.device)


def _unpacked(packed: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    values: Tensor = dequantize_4bit(packed.data, packed.quant_state)
    return values
