"""Rewards of a group in, advantages out. Pure.

GRPO (arXiv 2402.03300, eq. 3): A_i = (r_i - mean(r)) / std(r), over the completions of one prompt. Dr. GRPO
(arXiv 2503.20783) leaves the division out. Failed rewards are excluded from mean, std and loss.
"""

from collections.abc import Sequence as Seq

import numpy as np

from grpo.types import Group, Sequence

EPSILON = 1e-6
"""Keeps the division finite; small against any std that is not zero."""


def normalise(values: Seq[float], scale: str) -> list[float]:
    """Advantages of one group's rewards. All zero when the rewards are equal or fewer than two.

    ``scale``: "std" (sample standard deviation, n - 1) or "none".
    """
    if len(values) < 2 or max(values) == min(values):
        return [0.0] * len(values)
    rewards = np.asarray(values, dtype=np.float64)
    centred = rewards - rewards.mean()
    return [float(a) for a in (centred / (centred.std(ddof=1) + EPSILON) if scale == "std" else centred)]


def assign(groups: Seq[Group], scale: str, *, keep_all: bool = False) -> list[Sequence]:
    """One Sequence per completion that carries a gradient: groups without signal and failed rewards are left out.

    ``keep_all`` keeps scored completions without an advantage: a KL term acts on them too.
    """
    sequences = []
    for number, group in enumerate(groups):
        advantages = iter(normalise(group.values, scale))
        for completion, reward in zip(group.completions, group.rewards, strict=True):
            advantage = next(advantages) if reward.value is not None else 0.0
            wanted = advantage != 0.0 or (keep_all and reward.value is not None)
            if wanted and completion.token_ids:
                sequences.append(
                    Sequence(
                        group=number,
                        prompt_ids=group.prompt.token_ids,
                        completion_ids=completion.token_ids,
                        sampler_logprobs=completion.logprobs,
                        advantage=advantage,
                    )
                )
    return sequences


def has_no_signal(group: Group) -> bool:
    """True when every advantage of the group is zero: equal rewards, or fewer than two of them."""
    values = group.values
    return len(values) < 2 or max(values) == min(values)
