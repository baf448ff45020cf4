"""The kernels' tests on a GPU: GRPO_TEST_KERNELS=card has their Triton form compute there instead of in the interpreter.

The numbers of a test live on the CPU, as do the oracles; only what a kernel is given and what it gives travel.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from grpo_kernels import Kernels, choose

ON_CARD = os.environ.get("GRPO_TEST_KERNELS") == "card"


def kernels_on_card() -> Kernels:
    """The fused form, called with tensors of the CPU."""
    fused = choose("fused", torch.device("cuda"))
    fields = ("target_logit", "anchored_sums", "linear_logp", "rows_at_once", "group_advantages", "policy_loss")
    return Kernels(name=fused.name, **{field: partial(_there, getattr(fused, field)) for field in fields})


def _there(kernel: Callable[..., Any], *given: Any) -> Any:
    return _moved(kernel(*(_moved(value, "cuda") for value in given)), "cpu")


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        parts = [_moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
