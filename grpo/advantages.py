"""Rewards of a group in, advantages and token weights out. Pure.

The forms of advantages are those of kernels/grpo_kernels/plain_loss.py, computed here in float64 on the CPU, where the
rewards are. Failed rewards are excluded from mean, std and loss. A group whose rewards are all equal has no signal,
whatever shaping adds to them: it would only teach its lengths.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq

from grpo.sections import Update
from grpo.types import Completion, Group, Reward, Sequence


def normalise(values: Seq[float], form: str) -> list[float]:
    """Advantages of one group's rewards. All zero when the rewards are equal or fewer than two.

    ``form``: "std" (sample standard deviation, n - 1), "none" or "leave_one_out".
    """
    import torch  # not with the module: commands that only read results answer at once
    from grpo_kernels import PLAIN

    offsets = torch.tensor([0, len(values)])
    stats = PLAIN.group_advantages(torch.tensor(values, dtype=torch.float64), offsets, form)
    return [float(a) for a in stats.advantages]


def assign(groups: Seq[Group], settings: Update, max_tokens: int) -> list[Sequence]:
    """One Sequence per completion that carries a gradient: groups without signal and failed rewards are left out.

    Extra groups without signal count for nothing. With a KL term, scored completions without an advantage are kept: it
    acts on them too. ``max_tokens``: the limit of what a completion samples.
    """
    counted = [group for group in groups if not (group.extra and has_no_signal(group))]
    part = [(completion, reward) for group in counted for completion, reward in _pairs(group)]
    lengths = [c.sampled for c, r in part if takes_part(c, r, settings)]
    sequences = []
    for number, group in enumerate(counted):
        for completion, reward, advantage in _with_advantages(group, settings, max_tokens):
            if takes_part(completion, reward, settings) and (advantage != 0.0 or settings.kl_coef > 0):
                sequences.append(
                    Sequence(
                        group=number,
                        prompt_ids=group.prompt.token_ids,
                        completion_ids=completion.token_ids,
                        sampler_logprobs=completion.logprobs,
                        advantage=advantage,
                        extra=group.extra,
                        weight=token_weight(settings.loss, completion.sampled, lengths, max_tokens),
                        foreign=completion.foreign,
                    )
                )
    return sequences


def takes_part(completion: Completion, reward: Reward, settings: Update) -> bool:
    """Whether a completion is in the loss and counts in its denominator."""
    cut = settings.mask_truncated and completion.finish_reason == "length"
    return reward.value is not None and bool(completion.token_ids) and not cut


def token_weight(loss: str, length: int, lengths: Seq[int], max_tokens: int) -> float:
    """What one token of a completion of ``length`` counts in the step's loss; ``lengths``: of all that take part.

    Weights of whole completions sum to 1 over the step, but for dr_grpo, whose denominator no length may move.
    """
    if loss in ("grpo", "gspo"):
        return 1.0 / (len(lengths) * length)
    if loss == "dr_grpo":
        return 1.0 / (len(lengths) * max_tokens)
    return 1.0 / sum(lengths)


def overlong_penalty(length: int, settings: Update, max_tokens: int) -> float:
    """Soft overlong punishment (DAPO, arXiv 2503.14476, eq. 13): from 0 down to the penalty within the buffer."""
    if not settings.overlong_buffer:
        return 0.0
    beyond = length - (max_tokens - settings.overlong_buffer)
    return -settings.overlong_penalty * min(1.0, max(0.0, beyond / settings.overlong_buffer))


def has_no_signal(group: Group) -> bool:
    """True when every advantage of the group is zero: equal rewards, or fewer than two of them."""
    values = group.values
    return len(values) < 2 or max(values) == min(values)


def _pairs(group: Group) -> Iterator[tuple[Completion, Reward]]:
    return zip(group.completions, group.rewards, strict=True)


def _with_advantages(group: Group, settings: Update, max_tokens: int) -> Iterator[tuple[Completion, Reward, float]]:
    shaped = [
        r.value + overlong_penalty(c.sampled, settings, max_tokens) for c, r in _pairs(group) if r.value is not None
    ]
    advantages = iter([0.0] * len(shaped) if has_no_signal(group) else normalise(shaped, settings.advantages))
    for completion, reward in _pairs(group):
        yield completion, reward, next(advantages) if reward.value is not None else 0.0
