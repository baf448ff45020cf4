"""One step's records in, one line of metrics out. Pure."""

from typing import Any

import numpy as np

from grpo import advantages
from grpo.rollout import Delivery
from grpo.sync import Agreement
from grpo.types import Evaluation, Group
from grpo.update import UpdateStats


def count_tokens(groups: list[Group]) -> int:
    """Completion tokens of all scored completions."""
    return sum(
        len(completion.token_ids)
        for group in groups
        for completion, reward in zip(group.completions, group.rewards, strict=True)
        if reward.value is not None
    )


def describe(step: int, groups: list[Group], stats: UpdateStats) -> dict[str, Any]:
    """A line of metrics.jsonl: Bedrock's names first, then ours (docs/metrics.md)."""
    values = [value for group in groups for value in group.values]
    completions = [c for group in groups for c in group.completions]
    lengths = [len(c.token_ids) for c in completions]
    scored = [group for group in groups if group.values]
    means = [float(np.mean(group.values)) for group in scored]
    failed = sum(r.value is None for group in groups for r in group.rewards)
    spread = float(np.std(means, ddof=1)) / len(means) ** 0.5 if len(means) > 1 else float("nan")
    adv = [a for group in groups for a in advantages.normalise(group.values, "std")]
    return {
        "step": step,
        "critic_rewards_mean": float(np.mean(values)),
        "actor_pg_loss": stats.pg_loss,
        "actor_entropy": stats.entropy,
        "actor_grad_norm": stats.grad_norm,
        "critic_advantages_mean": float(np.mean(adv)),
        "response_length_mean": float(np.mean(lengths)),
        "reward_half_width": 1.96 * spread,
        "reward_lowest": min(values),
        "reward_highest": max(values),
        "reward_errors": failed,
        "reward_error_share": failed / len(completions),
        "scored_completions": len(values),
        "truncated_share": sum(c.finish_reason == "length" for c in completions) / len(completions),
        "zero_variance_share": sum(advantages.has_no_signal(group) for group in groups) / len(groups),
        "clip_share": stats.clip_share,
        "kl": stats.kl,
        "learning_rate": stats.learning_rate,
        "trained_tokens": stats.trained_tokens,
        "sampler_gap_mean": stats.gap_mean,
        "sampler_gap_max": stats.gap_max,
        "prompts": [group.prompt.index for group in scored],
        "prompt_rewards": means,
    }


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
