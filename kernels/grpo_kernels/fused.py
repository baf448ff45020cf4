"""The Triton form of all kernels, for CUDA. Importing it needs Triton."""

from grpo_kernels import fused_linear, fused_loss
from grpo_kernels.types import Kernels

FUSED = Kernels(
    name="fused",
    target_logit=fused_linear.target_logit,
    anchored_sums=fused_linear.anchored_sums,
    close=fused_linear.close,
    linear_logp=fused_linear.linear_logp,
    rows_at_once=fused_linear.rows_at_once,
    group_advantages=fused_loss.group_advantages,
    policy_loss=fused_loss.policy_loss,
)
