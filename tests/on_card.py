"""The kernels' tests on a GPU: with GRPO_TEST_KERNELS=card their Triton form computes there, not in the interpreter.

The numbers of a test live on the CPU, as do the oracles; only what a kernel is given and what it gives travel.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from grpo_kernels import Kernels, choose

ON_CARD = os.environ.get("GRPO_TEST_KERNELS") == "card"


def kernels_on_card() -> Kernels:
    """The fused form, called with tensors of the CPU."""
    fused = choose("fused", torch.device("cuda"))
    return Kernels(**{name: partial(_there, part) if callable(part) else part for name, part in asdict(fused).items()})


def _there(kernel: Callable[..., Any], *given: Any, **named: Any) -> Any:
    moved = _moved(given, "cuda")
    found = kernel(*moved, **{name: _moved(value, "cuda") for name, value in named.items()})
    for here, there in zip(given, moved, strict=True):
        if isinstance(here, list):  # what the kernel fills in
            for filled, result in zip(here, there, strict=True):
                filled.copy_(result)
    return _moved(found, "cpu")


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    if isinstance(value, tuple):
        parts = [_moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
