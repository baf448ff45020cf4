"""The clipped policy loss, per token. Pure tensor arithmetic; the denominators are the caller's.

Shapes: T completion tokens.

    ratio_t = exp(logp_t - old_t)
    loss_t  = -w_t * min(ratio_t * A_t, clip(ratio_t, 1 - clip_low, 1 + clip_high) * A_t) + kl_coef * k3_t

PPO's clip (arXiv 1707.06347, eq. 7) with two-sided bounds (DAPO, arXiv 2503.14476, eq. 10). ``w_t`` is the truncated
importance weight min(exp(old_t - sampler_t), cap): the tokens were drawn by the sampler, whose arithmetic differs from
the trainer's. ``k3 = exp(ref - logp) - (ref - logp) - 1`` estimates KL(policy || reference) without bias and is never
negative (joschu.net/blog/kl-approx.html).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """All [T], fp32."""

    logprobs: Tensor
    """Of the policy being trained; carries the gradient."""
    old_logprobs: Tensor
    """Of the policy before this step's first update, by the trainer."""
    sampler_logprobs: Tensor
    """Of the same policy, by the sampler, when it drew the tokens."""
    reference_logprobs: Tensor | None
    """Of the base model; None where kl_coef is 0."""
    advantages: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """Sums over the tokens given; the caller adds them up and divides once."""

    loss: Tensor
    """Carries the gradient."""
    clipped: Tensor
    """Tokens whose gradient the clip removed."""
    kl: Tensor
    gap: Tensor
    """Sum of |old - sampler|."""
    gap_max: Tensor
    """Largest |old - sampler|; a maximum, not a sum."""


def policy_loss(
    inputs: LossInputs, *, clip_low: float, clip_high: float, importance_cap: float, kl_coef: float
) -> LossSums:
    """Sum of the per-token losses and of the metrics beside it. Differentiable in ``inputs.logprobs``."""
    ratio = torch.exp(inputs.logprobs - inputs.old_logprobs)
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    gap = inputs.old_logprobs - inputs.sampler_logprobs
    weight = gap.exp().clamp(max=importance_cap)
    free, held = ratio * inputs.advantages, bounded * inputs.advantages
    loss = -weight * torch.minimum(free, held)
    kl = torch.zeros_like(loss)
    if inputs.reference_logprobs is not None:
        away = inputs.reference_logprobs - inputs.logprobs
        kl = away.exp() - away - 1.0
        loss = loss + kl_coef * kl
    return LossSums(
        loss=loss.sum(),
        clipped=(held < free).sum().float(),
        kl=kl.detach().sum(),
        gap=gap.abs().sum(),
        gap_max=gap.abs().amax() if gap.numel() else gap.new_zeros(()),
    )
