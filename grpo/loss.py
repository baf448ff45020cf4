"""The policy losses, per token. Pure tensor arithmetic; how much a token counts is decided before (advantages.py).

Shapes: T completion tokens, S sequences.

    ratio_t = exp(logp_t - old_t)                                   one token
    ratio_i = exp(mean over t of (logp_t - old_t))                  one sequence, gspo

    grpo, dapo, dr_grpo, gspo   -w_t * min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)
    cispo                       -w_t * stop_gradient(min(ratio_t, 1 + clip_high)) * A * logp_t

PPO's clip (arXiv 1707.06347, eq. 7) with two-sided bounds (DAPO, arXiv 2503.14476, eq. 10). grpo, dapo and dr_grpo
differ in the tokens' weights alone; gspo (arXiv 2507.18071, eq. 5 to 7) clips whole sequences; cispo (arXiv 2506.13585,
eq. 4 and 5) caps the weight of a token and never its gradient. ``w_t`` is the truncated importance weight
min(exp(old_t - sampler_t), cap): the tokens were drawn by the sampler, whose arithmetic differs from the trainer's.

KL(policy || reference), with away = reference - logp (joschu.net/blog/kl-approx.html):

    k1   -away            as a part of the reward: its gradient is k1 * grad logp, for that of -away has mean zero
    k2   away^2 / 2       gradient in expectation that of the KL
    k3   e^away - away - 1, unbiased and never negative
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.sections import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """All [T]; numbers in fp32."""

    logprobs: Tensor
    """Of the policy being trained; carries the gradient."""
    old_logprobs: Tensor
    """Of the policy before this step's first update, by the trainer."""
    sampler_logprobs: Tensor
    """Of the same policy, by the sampler, when it drew the tokens."""
    reference_logprobs: Tensor | None
    """Of the base model; None where kl_coef is 0."""
    advantages: Tensor
    weights: Tensor
    """What each token counts in the loss."""
    sequence: Tensor
    """int64: which of the batch's sequences a token belongs to, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """Sums over the tokens given; the caller adds them up. Only the loss is weighted."""

    loss: Tensor
    """Carries the gradient."""
    clipped: Tensor
    """Tokens whose gradient the clip removed, or whose weight the cap cut."""
    kl: Tensor
    """Of k3, whatever is optimised."""
    gap: Tensor
    """Sum of |old - sampler|."""
    gap_max: Tensor
    """Largest |old - sampler|; a maximum, not a sum."""


def policy_loss(inputs: LossInputs, settings: Update) -> LossSums:
    """Sum of the weighted per-token losses and of the metrics beside it. Differentiable in ``inputs.logprobs``."""
    gap = inputs.old_logprobs - inputs.sampler_logprobs
    importance = gap.exp().clamp(max=settings.importance_cap)
    loss, clipped = _capped(inputs, settings) if settings.loss == "cispo" else _clipped(inputs, settings)
    loss = importance * loss
    kl = torch.zeros_like(loss)
    if inputs.reference_logprobs is not None:
        away = inputs.reference_logprobs - inputs.logprobs
        kl = away.exp() - away - 1.0
        loss = loss + settings.kl_coef * _kl(away, kl, settings.kl_estimator)
    return LossSums(
        loss=(inputs.weights * loss).sum(),
        clipped=clipped.sum().float(),
        kl=kl.detach().sum(),
        gap=gap.abs().sum(),
        gap_max=gap.abs().amax() if gap.numel() else gap.new_zeros(()),
    )


def _clipped(inputs: LossInputs, settings: Update) -> tuple[Tensor, Tensor]:
    """[T] the pessimistic of the free and the clipped term, and where the clip won."""
    log_ratio = inputs.logprobs - inputs.old_logprobs
    if settings.loss == "gspo":
        log_ratio = sequence_mean(log_ratio, inputs.sequence)
    ratio = log_ratio.exp()
    free = ratio * inputs.advantages
    held = ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high) * inputs.advantages
    return -torch.minimum(free, held), held < free


def _capped(inputs: LossInputs, settings: Update) -> tuple[Tensor, Tensor]:
    """[T] REINFORCE with a capped importance weight, and where the cap cut."""
    ratio = (inputs.logprobs - inputs.old_logprobs).detach().exp()
    cap = 1.0 + settings.clip_high
    return -ratio.clamp(max=cap) * inputs.advantages * inputs.logprobs, ratio > cap


def sequence_mean(values_T: Tensor, sequence_T: Tensor) -> Tensor:
    """[T] each token's value replaced by the mean over its sequence; differentiable."""
    zero_S = torch.zeros_like(values_T)  # S is T at most; how many there are would have to come from the GPU
    counts_S = zero_S.index_add(0, sequence_T, torch.ones_like(values_T))
    return (zero_S.index_add(0, sequence_T, values_T) / counts_S)[sequence_T]


def _kl(away: Tensor, k3: Tensor, estimator: str) -> Tensor:
    if estimator == "k1":
        towards = -away
        return towards.detach() * (towards - towards.detach() + 1.0)
    return 0.5 * away.square() if estimator == "k2" else k3
