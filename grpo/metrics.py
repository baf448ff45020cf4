"""One step's records in, one line of metrics out. Pure."""

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np

from grpo import advantages
from grpo.drawing import Candidate, estimate
from grpo.rollout import Delivery
from grpo.sync import Agreement
from grpo.types import Evaluation, Group, Sequence
from grpo.update import UpdateStats


def describe(
    step: int, candidates: Seq[Candidate], groups: Seq[Group], sequences: Seq[Sequence], stats: UpdateStats
) -> dict[str, Any]:
    """A line of metrics.jsonl: Bedrock's names first, then ours (docs/metrics.md).

    Of the prompts considered: extra ones, which were selected by their rewards, are in no mean, and those picked by a
    chance weigh its inverse.
    """
    sampled = sum(c.sampled for group in groups for c in group.completions)
    extra = sum(group.extra for group in groups)
    groups = [group for group in groups if not group.extra]
    values = [value for group in groups for value in group.values]
    completions = [c for group in groups for c in group.completions]
    scored = [group for group in groups if group.values]
    means = [float(np.mean(group.values)) for group in scored]
    failed = sum(r.value is None for group in groups for r in group.rewards)
    silent = [advantages.has_no_signal(group) for group in groups]
    weights = [1 / candidate.chance for candidate in candidates if candidate.picked]
    each = [weight for weight, group in zip(weights, groups, strict=True) for _ in group.completions]
    told = estimate(candidates, [float(np.mean(group.values)) if group.values else None for group in groups])
    return {
        "step": step,
        "critic_rewards_mean": told.mean if told.skipped else float(np.mean(values)),
        "actor_pg_loss": stats.pg_loss,
        "actor_entropy": stats.entropy,
        "actor_grad_norm": stats.grad_norm,
        "critic_advantages_mean": sum(s.advantage for s in sequences if not s.extra) / len(values),
        "response_length_mean": float(np.average([c.sampled for c in completions], weights=each)),
        "reward_half_width": told.half_width,
        "reward_lowest": min(values),
        "reward_highest": max(values),
        "reward_errors": failed,
        "reward_error_share": failed / len(completions),
        "scored_completions": len(values),
        "turns_mean": float(np.average([c.policy_turns for c in completions], weights=each)),
        "truncated_share": float(np.average([c.finish_reason == "length" for c in completions], weights=each)),
        "zero_variance_share": float(np.average(silent, weights=weights)),
        "reward_parts": part_means(groups, weights),
        "clip_share": stats.clip_share,
        "kl": stats.kl,
        "learning_rate": stats.learning_rate,
        "tokens_per_microbatch": stats.tokens_per_microbatch,
        "trained_tokens": stats.trained_tokens,
        "sampled_tokens": sampled,
        "extra_groups": extra,
        "visited_prompts": len(candidates),
        "sampler_gap_mean": stats.gap_mean,
        "sampler_gap_max": stats.gap_max,
        "prompts": [group.prompt.index for group in scored],
        "prompt_rewards": means,
        "considered": told.considered if told.skipped else [],
    }


def part_means(groups: Seq[Group], weights: Seq[float]) -> dict[str, float]:
    """Mean of each part of the rewards (several graders' scores, a function's ``metrics_list``), where it was given.

    ``weights``: of each group's completions.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for group, weight in zip(groups, weights, strict=True):
        for reward in group.rewards:
            for name, value in reward.parts.items():
                found.setdefault(name, []).append((value, weight))
    columns = {name: np.array(pairs).T for name, pairs in sorted(found.items())}
    return {name: float(np.average(values, weights=each)) for name, (values, each) in columns.items()}


def describe_sync(delivery: Delivery, agreement: Agreement) -> dict[str, Any]:
    """How the update reached the sampler."""
    return {
        "sync_seconds": delivery.seconds,
        "sync_modules": delivery.modules,
        "sync_survived": delivery.survived,
        "sync_residual": agreement.residual,
        "sync_change": agreement.change,
        "sync_smallest_visible_fault": agreement.visible,
    }


def describe_heldout(heldout: Evaluation) -> dict[str, Any]:
    """The evaluation that followed the step."""
    return {f"heldout_{name}": getattr(heldout, name) for name in ("mean", "low", "high", "n")}
