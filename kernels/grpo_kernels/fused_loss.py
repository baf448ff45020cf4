"""Advantages and policy loss in Triton: launches of triton_loss.py; plain_loss.py specifies them."""

from typing import Any

import torch
from torch import Tensor

from grpo_kernels import triton_loss as kernels
from grpo_kernels.plain_loss import EPSILON
from grpo_kernels.types import GroupStats, LossRule, LossSums

FORMS = ("std", "none", "leave_one_out")
KINDS = ("clip", "clip_sequence", "cap")
ESTIMATORS = (None, "k1", "k2", "k3")
BLOCK = 1024
SMALL_BLOCK = 64
"""Rewards that a group's program has in hand; larger groups take several turns."""


def group_advantages(rewards: Tensor, offsets: Tensor, form: str) -> GroupStats:
    """As plain_loss.group_advantages, for rewards in fp32."""
    groups, rewards, offsets = len(offsets) - 1, rewards.contiguous(), offsets.contiguous()
    advantages = torch.empty_like(rewards)
    mean, std = (torch.empty(groups, device=rewards.device) for _ in range(2))
    silent = torch.empty(groups, dtype=torch.int8, device=rewards.device)
    if groups:
        kernels.group_advantages[(groups,)](
            *(rewards, offsets, advantages, mean, std, silent),
            FORM=FORMS.index(form),
            EPSILON=EPSILON,
            BLOCK=SMALL_BLOCK,
            num_warps=2,
        )
    return GroupStats(advantages, mean, std, silent.bool())


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    reference_logprobs: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    offsets: Tensor,
    rule: LossRule,
) -> LossSums:
    """As plain_loss.policy_loss, for fp32; gradient and sums come from one launch."""
    vectors = (logprobs, old_logprobs, sampler_logprobs, reference_logprobs, advantages, weights, offsets)
    flat = (value if value is None else value.contiguous() for value in vectors)
    parts: Any = _PolicyLoss.apply(*flat, rule)  # type: ignore[no-untyped-call]
    return LossSums(*parts)


class _PolicyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logprobs: Tensor,
        old: Tensor,
        sampler: Tensor,
        reference: Tensor | None,
        advantages: Tensor,
        weights: Tensor,
        offsets: Tensor,
        rule: LossRule,
    ) -> tuple[Tensor, ...]:
        sequences = len(offsets) - 1
        gradient, sums = torch.empty_like(logprobs), torch.empty(sequences, kernels.SUMS.value, device=logprobs.device)
        if sequences:
            kernels.policy_loss[(sequences,)](
                *(logprobs, old, sampler, logprobs if reference is None else reference, advantages, weights, offsets),
                *(gradient, sums, rule.clip_low, rule.clip_high, rule.importance_cap, rule.kl_coef),
                KIND=KINDS.index(rule.kind),
                ESTIMATOR=0 if reference is None else ESTIMATORS.index(rule.kl_estimator),
                BLOCK=BLOCK,
                num_warps=4,
            )
        ctx.save_for_backward(gradient)
        loss, clipped, kl, gap, _ = sums.sum(0).unbind()
        largest = sums[:, 4].amax() if sequences else sums.new_zeros(())
        ctx.mark_non_differentiable(clipped, kl, gap, largest)
        return loss.clone(), clipped.clone(), kl.clone(), gap.clone(), largest

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad_loss * gradient, None, None, None, None, None, None, None
