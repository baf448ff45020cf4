"""Which form of the kernels a run takes."""

from importlib.util import find_spec

import torch

from grpo_kernels.plain import PLAIN
from grpo_kernels.types import Kernels


def choose(form: str, device: torch.device) -> Kernels:
    """``plain``, ``fused``, or for ``auto`` the fused form on CUDA. Raises RuntimeError where fused cannot run."""
    if form == "plain" or (form == "auto" and device.type != "cuda"):
        return PLAIN
    if device.type != "cuda":
        raise RuntimeError(f"the fused kernels run on CUDA, and this is {device}")
    if find_spec("triton") is None:
        raise RuntimeError("the fused kernels need Triton, which is not installed: pip install triton")
    from grpo_kernels.fused import FUSED

    return FUSED
