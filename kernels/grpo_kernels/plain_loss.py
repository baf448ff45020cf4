"""Group-relative advantages and the policy losses in plain torch: the specification of fused_loss.py.

Shapes: N rewards in P groups; T completion tokens in S sequences, one after the other.

    ratio_t = exp(logp_t - old_t)                                   one token
    ratio_i = exp(mean over t of (logp_t - old_t))                  one sequence

    clip             -w * min(ratio_t * A, clip(ratio_t, 1 - clip_low, 1 + clip_high) * A)      grpo, dapo, dr_grpo
    clip_sequence    the same with ratio_i                                                      gspo
    cap              -w * stop_gradient(min(ratio_t, 1 + clip_high)) * A * logp_t               cispo

PPO's clip (arXiv 1707.06347, eq. 7) with two-sided bounds (DAPO, arXiv 2503.14476, eq. 10). grpo, dapo and dr_grpo
differ in the weights alone; gspo (arXiv 2507.18071, eq. 5 to 7) clips whole sequences; cispo (arXiv 2506.13585, eq. 4
and 5) caps the weight of a token and never its gradient. Every term is multiplied by the truncated importance weight
min(exp(old_t - sampler_t), cap): the tokens were drawn by the sampler, whose arithmetic differs from the trainer's.

KL(policy || reference), with away = reference - logp (joschu.net/blog/kl-approx.html):

    k1   -away            as a part of the reward: its gradient is k1 * grad logp, for that of -away has mean zero
    k2   away^2 / 2       gradient in expectation that of the KL
    k3   e^away - away - 1, unbiased and never negative
"""

import torch
from torch import Tensor

from grpo_kernels.types import GroupStats, LossRule, LossSums

EPSILON = 1e-6
"""Keeps the division by a standard deviation finite; small against any that is not zero."""


def group_advantages(rewards: Tensor, offsets: Tensor, form: str) -> GroupStats:
    """rewards [N], of group p from offsets[p] to offsets[p + 1]; offsets [P + 1] ascending.

    A reward that is not a number is left out. Without a signal all advantages are exactly 0. With mean and standard
    deviation (n - 1) over a group's n rewards:

        std            (r - mean) / (std + EPSILON)     GRPO, arXiv 2402.03300, section 4.1.2
        none            r - mean                         Dr. GRPO, arXiv 2503.20783, section 3.2
        leave_one_out   (r - mean) * n / (n - 1)         RLOO, arXiv 2402.14740, eq. 8
    """
    group = torch.repeat_interleave(offsets.diff(), output_size=len(rewards))
    found = ~rewards.isnan()
    zero = torch.zeros(len(offsets) - 1, dtype=rewards.dtype, device=rewards.device)
    count = zero.index_add(0, group, found.to(rewards.dtype))
    low = (zero + torch.inf).index_reduce(0, group, torch.where(found, rewards, torch.inf), "amin")
    high = (zero - torch.inf).index_reduce(0, group, torch.where(found, rewards, -torch.inf), "amax")
    silent = (count < 2) | (low == high)
    above = torch.where(found, rewards - low[group], 0.0)  # small numbers whatever the level, so that no digit is lost
    middle = zero.index_add(0, group, above) / count
    centred = torch.where(found, above - middle[group], 0.0)
    std = (zero.index_add(0, group, centred.square()) / (count - 1).clamp(min=1)).sqrt()
    factor = {"std": 1.0 / (std + EPSILON), "none": zero + 1.0, "leave_one_out": count / (count - 1)}[form]
    advantages = torch.where(silent[group], 0.0, centred * factor[group])
    return GroupStats(advantages, low + middle, torch.where(silent, 0.0, std), silent)


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
    """Sum of the weighted losses and of the metrics beside it. Differentiable in ``logprobs``.

    logprobs, old_logprobs, sampler_logprobs, reference_logprobs [T]: of the policy being trained; of it before the
    step's first update; of that by the sampler; of the base model, None where rule.kl_coef is 0. advantages, weights
    [S]: of a sequence, and what each of its tokens counts. offsets [S + 1]: where in T a sequence starts.
    """
    sequence = torch.repeat_interleave(offsets.diff(), output_size=len(logprobs))
    advantage = advantages[sequence]
    gap = old_logprobs - sampler_logprobs
    importance = gap.exp().clamp(max=rule.importance_cap)
    log_ratio = logprobs - old_logprobs
    if rule.kind == "cap":
        ratio, most = log_ratio.detach().exp(), 1.0 + rule.clip_high
        loss, clipped = -ratio.clamp(max=most) * advantage * logprobs, ratio > most
    else:
        ratio = (sequence_mean(log_ratio, offsets) if rule.kind == "clip_sequence" else log_ratio).exp()
        free = ratio * advantage
        held = ratio.clamp(1.0 - rule.clip_low, 1.0 + rule.clip_high) * advantage
        loss, clipped = -torch.minimum(free, held), held < free
    loss, k3 = importance * loss, torch.zeros_like(loss)
    if reference_logprobs is not None:
        away = reference_logprobs - logprobs
        k3 = away.exp() - away - 1.0
        loss = loss + rule.kl_coef * _kl(away, k3, rule.kl_estimator)
    return LossSums(
        loss=(weights[sequence] * loss).sum(),
        clipped=clipped.sum().to(loss.dtype),
        kl=k3.detach().sum(),
        gap=gap.abs().sum(),
        gap_max=gap.abs().amax() if gap.numel() else gap.new_zeros(()),
    )


def sequence_mean(values: Tensor, offsets: Tensor) -> Tensor:
    """[T] each token's value replaced by the mean over its sequence; differentiable."""
    lengths = offsets.diff()
    sequence = torch.repeat_interleave(lengths, output_size=len(values))
    zero = torch.zeros(len(lengths), dtype=values.dtype, device=values.device)
    return (zero.index_add(0, sequence, values) / lengths)[sequence]


def _kl(away: Tensor, k3: Tensor, estimator: str) -> Tensor:
    if estimator == "k1":
        towards = -away
        return towards.detach() * (towards - towards.detach() + 1.0)
    return 0.5 * away.square() if estimator == "k2" else k3
