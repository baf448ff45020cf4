"""What the kernels take and give, in either form."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Sums(NamedTuple):
    """Of e_v = exp(z_v - anchor) over a vocabulary, or a shard of it, without the target's column."""

    anchors: Tensor
    """[T] the anchors used: those given, but where they lost numbers."""
    rest: Tensor
    """[T] sum of e_v."""
    moment: Tensor
    """[T] sum of e_v * (z_v - anchor)."""
    stored: Tensor
    """[T] sum of e_v, each as rounded to the head's dtype."""
    others: Tensor
    """[S, T, H] parts of the sum of rounded e_v * head_v, to be added; in how many S an implementation chooses."""


class GroupStats(NamedTuple):
    """Of P groups with N rewards in all."""

    advantages: Tensor
    """[N]; 0 for a reward that is not a number."""
    mean: Tensor
    """[P]; not a number where a group has no reward."""
    std: Tensor
    """[P] sample standard deviation (n - 1); 0 for fewer than two."""
    silent: Tensor
    """[P] bool: all rewards are equal, or fewer than two; exact, without a tolerance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRule:
    """How a token's loss follows from its log-probabilities; see plain_loss.py."""

    kind: str
    """clip, a token at a time; clip_sequence, a whole completion at a time (gspo); cap (cispo)."""
    clip_low: float
    clip_high: float
    importance_cap: float
    kl_coef: float = 0.0
    kl_estimator: str = "k3"


class LossSums(NamedTuple):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """One form of all of them; plain.py and fused.py have one each."""

    name: str
    target_logit: Callable[..., Tensor]
    anchored_sums: Callable[..., Sums]
    close: Callable[..., None]
    linear_logp: Callable[..., tuple[Tensor, Tensor]]
    rows_at_once: Callable[[Tensor], int]
    """Rows of one call of ``anchored_sums``, for a head."""
    group_advantages: Callable[..., GroupStats]
    policy_loss: Callable[..., LossSums]
