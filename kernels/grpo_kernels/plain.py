"""The plain-torch form of all kernels: the specification, and what a CPU runs."""

from grpo_kernels import plain_linear, plain_loss
from grpo_kernels.types import Kernels

PLAIN = Kernels(
    name="plain",
    target_logit=plain_linear.target_logit,
    anchored_sums=plain_linear.anchored_sums,
    close=plain_linear.close,
    linear_logp=plain_linear.linear_logp,
    rows_at_once=plain_linear.rows_at_once,
    group_advantages=plain_loss.group_advantages,
    policy_loss=plain_loss.policy_loss,
)
