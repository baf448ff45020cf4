"""The configured loss as the kernels' rule. Pure; formulas are in kernels/grpo_kernels/plain_loss.py."""

from grpo_kernels import LossRule

from grpo.sections import Update

CLIPPED = {"gspo": "clip_sequence", "cispo": "cap"}
"""grpo, dapo and dr_grpo clip a token at a time; they differ in what a token counts (advantages.py)."""


def rule_of(settings: Update) -> LossRule:
    """What of the settings the loss of a token depends on."""
    return LossRule(
        kind=CLIPPED.get(settings.loss, "clip"),
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        importance_cap=settings.importance_cap,
        kl_coef=settings.kl_coef,
        kl_estimator=settings.kl_estimator,
    )
