"""Kernels of the GRPO update, each in two forms with one signature: plain torch (plain.py) and Triton (fused.py).

On a CPU torch can compile a part of the plain form (compiled.py).
"""

from grpo_kernels.choice import choose
from grpo_kernels.linear import linear_logp_jac
from grpo_kernels.plain import PLAIN
from grpo_kernels.types import GroupStats, Kernels, LossRule, LossSums, Sums

__all__ = ["PLAIN", "GroupStats", "Kernels", "LossRule", "LossSums", "Sums", "choose", "linear_logp_jac"]
