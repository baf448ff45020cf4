"""Which form of the kernels a run takes."""

from importlib.util import find_spec

import torch

from grpo_kernels.plain import PLAIN
from grpo_kernels.types import Kernels


def choose(form: str, device: torch.device, *, compiled: bool = False) -> Kernels:
    """``plain``, ``fused``, or for ``auto`` the fused form on CUDA. Raises RuntimeError where fused cannot run.

    ``compiled``: where that makes it the plain form on a CPU, as torch compiles it.
    """
    if form == "plain" or (form == "auto" and device.type != "cuda"):
        if not (compiled and device.type == "cpu"):
            return PLAIN
        from grpo_kernels.compiled import COMPILED

        return COMPILED
    if device.type != "cuda":
        raise RuntimeError(f"the fused kernels run on CUDA, and this is {device}")
    if find_spec("triton") is None:
        raise RuntimeError("the fused kernels need Triton, which is not installed: pip install triton")
    from grpo_kernels.fused import FUSED

    return FUSED
