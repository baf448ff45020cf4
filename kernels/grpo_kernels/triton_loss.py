"""Triton kernels of advantages and policy loss. One program per group or sequence; sums have a fixed order."""

import triton
import triton.language as tl

SUMS = tl.constexpr(5)
"""Of a sequence: loss, clipped tokens, KL, sum of the gaps, largest gap."""


@triton.jit
def group_advantages(
    rewards, offsets, advantages, mean, std, silent, FORM: tl.constexpr, EPSILON: tl.constexpr, BLOCK: tl.constexpr
):
    """FORM 0: divide by the standard deviation; 1: do not; 2: leave one out. Formulas in plain_loss.py."""
    group = tl.program_id(0)
    start, end = tl.load(offsets + group), tl.load(offsets + group + 1)
    low = tl.full([BLOCK], float("inf"), tl.float32)
    high = tl.full([BLOCK], float("-inf"), tl.float32)
    counts = tl.zeros([BLOCK], tl.float32)
    for first in range(start, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        reward = tl.load(rewards + place, mask=place < end, other=float("nan"))
        found = reward == reward
        low = tl.where(found, tl.minimum(low, reward), low)
        high = tl.where(found, tl.maximum(high, reward), high)
        counts += tl.where(found, 1.0, 0.0)
    count = tl.sum(counts, axis=0)
    least, most = tl.min(low, axis=0), tl.max(high, axis=0)
    sums = tl.zeros([BLOCK], tl.float32)
    for first in range(start, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        reward = tl.load(rewards + place, mask=place < end, other=float("nan"))
        sums += tl.where(reward == reward, reward - least, 0.0)
    middle = tl.sum(sums, axis=0) / count
    squares = tl.zeros([BLOCK], tl.float32)
    for first in range(start, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        reward = tl.load(rewards + place, mask=place < end, other=float("nan"))
        centred = tl.where(reward == reward, (reward - least) - middle, 0.0)
        squares += centred * centred
    deviation = tl.sqrt(tl.sum(squares, axis=0) / tl.maximum(count - 1.0, 1.0))
    signal = tl.where(count >= 2.0, tl.where(least == most, 0.0, 1.0), 0.0)
    factor = 1.0 / (deviation + EPSILON)
    if FORM == 1:
        factor = factor * 0.0 + 1.0
    if FORM == 2:
        factor = count / tl.maximum(count - 1.0, 1.0)
    for first in range(start, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        reward = tl.load(rewards + place, mask=place < end, other=float("nan"))
        advantage = tl.where(reward == reward, ((reward - least) - middle) * factor, 0.0)
        tl.store(advantages + place, advantage, mask=place < end)
    tl.store(mean + group, least + middle)
    tl.store(std + group, deviation)
    tl.store(silent + group, (1.0 - signal).to(tl.int8))


@triton.jit
def means_of_sequence(logprobs, old, sampler, start, end, importance_cap, BLOCK: tl.constexpr):
    """exp of the mean log-ratio, and the mean importance weight."""
    log_ratios = tl.zeros([BLOCK], tl.float32)
    importances = tl.zeros([BLOCK], tl.float32)
    for first in range(start, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < end
        before = tl.load(old + place, mask=inside, other=0.0)
        log_ratios += tl.load(logprobs + place, mask=inside, other=0.0) - before
        drawn = tl.load(sampler + place, mask=inside, other=0.0)
        importances += tl.where(inside, tl.minimum(tl.exp(before - drawn), importance_cap), 0.0)
    length = (end - start).to(tl.float32)
    return tl.exp(tl.sum(log_ratios, axis=0) / length), tl.sum(importances, axis=0) / length


@triton.jit
def surrogate(ratio, now, advantage, clip_low, clip_high, KIND: tl.constexpr):
    """Loss, its slope in logp, and where the clip removed the slope or the cap cut the weight."""
    held = tl.minimum(ratio, 1.0 + clip_high)
    if KIND == 2:
        return -held * advantage * now, -held * advantage, ratio > 1.0 + clip_high
    free = ratio * advantage
    bound = tl.maximum(held, 1.0 - clip_low) * advantage
    clipped = bound < free
    return -tl.minimum(free, bound), tl.where(clipped, 0.0, -free), clipped


@triton.jit
def divergence(away, ESTIMATOR: tl.constexpr):
    """Value and slope in logp of k1, k2 or k3, and the value of k3."""
    k3 = tl.exp(away) - away - 1.0
    if ESTIMATOR == 1:
        return -away, -away, k3
    elif ESTIMATOR == 2:
        return 0.5 * away * away, -away, k3
    else:
        return k3, 1.0 - tl.exp(away), k3


@triton.jit
def policy_loss(
    logprobs,
    old,
    sampler,
    reference,
    advantages,
    weights,
    offsets,
    gradient,
    sums,
    clip_low,
    clip_high,
    importance_cap,
    kl_coef,
    KIND: tl.constexpr,
    ESTIMATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """gradient [T] = d loss / d logp, and sums [S, SUMS] of each sequence.

    KIND 0: clip, 1: clip_sequence, 2: cap. ESTIMATOR 0: no reference, else 1 to 3 for k1 to k3.
    """
    sequence = tl.program_id(0)
    start, end = tl.load(offsets + sequence), tl.load(offsets + sequence + 1)
    advantage, weight = tl.load(advantages + sequence), tl.load(weights + sequence)
    if KIND == 1:
        common = means_of_sequence(logprobs, old, sampler, start, end, importance_cap, BLOCK)
    losses = tl.zeros([BLOCK], tl.float32)
    clips = tl.zeros([BLOCK], tl.float32)
    kls = tl.zeros([BLOCK], tl.float32)
    gaps = tl.zeros([BLOCK], tl.float32)
    largest = tl.zeros([BLOCK], tl.float32)
    for first in range(start, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < end
        now = tl.load(logprobs + place, mask=inside, other=0.0)
        before = tl.load(old + place, mask=inside, other=0.0)
        gap = before - tl.load(sampler + place, mask=inside, other=0.0)
        importance = tl.minimum(tl.exp(gap), importance_cap)
        ratio, share = tl.exp(now - before), importance
        if KIND == 1:
            ratio, share = tl.where(inside, common[0], 1.0), tl.where(inside, common[1], 1.0)
        loss, slope, clipped = surrogate(ratio, now, advantage, clip_low, clip_high, KIND)
        loss, slope = importance * loss, share * slope
        if ESTIMATOR > 0:
            value, value_slope, k3 = divergence(tl.load(reference + place, mask=inside, other=0.0) - now, ESTIMATOR)
            loss, slope = loss + kl_coef * value, slope + kl_coef * value_slope
            kls += tl.where(inside, k3, 0.0)
        tl.store(gradient + place, weight * slope, mask=inside)
        losses += tl.where(inside, weight * loss, 0.0)
        clips += tl.where(inside & clipped, 1.0, 0.0)
        gaps += tl.where(inside, tl.abs(gap), 0.0)
        largest = tl.maximum(largest, tl.where(inside, tl.abs(gap), 0.0))
    tl.store(sums + sequence * SUMS, tl.sum(losses, axis=0))
    tl.store(sums + sequence * SUMS + 1, tl.sum(clips, axis=0))
    tl.store(sums + sequence * SUMS + 2, tl.sum(kls, axis=0))
    tl.store(sums + sequence * SUMS + 3, tl.sum(gaps, axis=0))
    tl.store(sums + sequence * SUMS + 4, tl.max(largest, axis=0))
