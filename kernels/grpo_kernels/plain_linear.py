"""The output layer in plain torch: the specification of fused_linear.py, and what a CPU runs.

Shapes: T tokens, H hidden size, V vocabulary. Numbers are fp32, or float64 where the inputs are.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from grpo_kernels.types import Sums

ROWS, COLUMNS = 1024, 4096
"""Of one tile of logits. Fewer rows pack the head again and again, more columns leave the cache."""
LOW, HIGH = 2.0**-40, 2.0**40
"""A row whose sum of exponentials is outside was anchored so badly that numbers may be lost."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over numbers of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rows_at_once(head: Tensor) -> int:
    """As Kernels has it."""
    return ROWS


def target_logit(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, rounded: bool) -> Tensor:
    """[T] logit of each target; 0 for a negative one, which is in another shard of the vocabulary."""
    own = head[targets.clamp(min=0)].to(wide(head.dtype))
    logits = (hidden.to(own.dtype) * own).sum(1)
    if rounded:
        logits = logits.to(head.dtype).to(own.dtype)
    return torch.where(targets >= 0, logits * inverse, 0.0)


def anchored_sums(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    inverse: Tensor,
    target_logits: Tensor,
    anchors: Tensor,
    rounded: bool,
) -> Sums:
    """hidden [T, H], head [V, H], the rest [T]; targets that are negative are in another shard of the vocabulary.

    Rows that lost numbers to overflow or underflow are done again, anchored at their largest logit.
    """
    sums = _sums(hidden, head, targets, inverse, anchors, rounded)
    whole = sums.rest + (target_logits - anchors).exp()
    lost = ~((whole >= LOW) & (whole <= HIGH))
    if any_of(lost):
        rows = lost.nonzero()[:, 0]
        part, scale = hidden[rows], inverse[rows]
        top = torch.maximum(_highest(part, head, scale, rounded), target_logits[rows])
        again = _sums(part, head, targets[rows], scale, top, rounded)
        for all_of, found in zip(sums, again, strict=True):
            all_of[rows] = found
    return sums._replace(others=sums.others[None])


def close(
    head: Tensor,
    targets: Tensor,
    inverse: Tensor,
    target_logits: Tensor,
    sums: Sums,
    out: list[Tensor],
) -> None:
    """Fill in logp [T], entropy [T] and J [T, H], in the head's dtype, from sums over the whole vocabulary."""
    logp, entropy, jacobian = out
    away = target_logits - sums.anchors
    own = away.exp()
    whole = sums.rest + own
    logp.copy_(away - whole.log())
    entropy.copy_(whole.log() - (sums.moment + own * away) / whole)
    scale = torch.where(sums.stored > 0, sums.rest / sums.stored, 0.0) * inverse / whole
    sum_of_j = head[targets].to(sums.others.dtype).mul_(sums.stored[:, None]).sub_(sums.others.sum(0))
    jacobian.copy_(sum_of_j.mul_(scale[:, None]))


def linear_logp(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, rounded: bool) -> tuple[Tensor, Tensor]:
    """logp [T] and entropy [T] in nats, without a gradient: tiles joined at a running maximum."""
    kind = wide(hidden.dtype)
    logp, entropy = (torch.empty(len(hidden), dtype=kind, device=hidden.device) for _ in range(2))
    for start in range(0, len(hidden), ROWS):
        part = slice(start, start + ROWS)
        top = torch.full_like(logp[part], -torch.inf)
        total, moment = torch.zeros_like(top), torch.zeros_like(top)
        for _, away in _tiles(hidden[part], head, inverse[part], rounded):
            highest = torch.maximum(top, away.amax(1))
            down = torch.where(top.isinf(), 0.0, top - highest)
            away -= highest[:, None]
            exps = away.exp()
            moment = down.exp() * (moment + down * total) + (exps * away).sum(1)
            total = down.exp() * total + exps.sum(1)
            top = highest
        logits = target_logit(hidden[part], head, targets[part], inverse[part], rounded)
        logp[part] = logits - top - total.log()
        entropy[part] = total.log() - moment / total
    return logp, entropy


def _tiles(hidden: Tensor, head: Tensor, inverse: Tensor, rounded: bool) -> Iterator[tuple[int, Tensor]]:
    """First column and logits [T, COLUMNS] of each tile; a product in 16 bits rounds them by itself."""
    kind = head.dtype if rounded else wide(head.dtype)
    for start in range(0, len(head), COLUMNS):
        logits = torch.matmul(hidden.to(kind), head[start : start + COLUMNS].to(kind).T).to(wide(head.dtype))
        yield start, logits.mul_(inverse[:, None])


def _sums(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, anchors: Tensor, rounded: bool) -> Sums:
    rest, moment, stored = (torch.zeros_like(anchors) for _ in range(3))
    others = torch.zeros(hidden.shape, dtype=wide(head.dtype), device=hidden.device)
    for start, away in _tiles(hidden, head, inverse, rounded):
        away -= anchors[:, None]
        exps = away.exp()
        _forget(exps, targets - start)
        tile = exps.sum(1)
        if any_of(~tile.isfinite()):
            exps[~tile.isfinite()] = 0.0  # the row is lost; in a bf16 product on a CPU it would spoil its neighbours
        rest += tile
        moment += away.mul_(exps).sum(1)
        # fp16 reaches from 6e-8 to 65504 only: too little for exponentials
        kept = exps if head.dtype == torch.float16 else exps.to(head.dtype)
        stored += tile if kept is exps else kept.sum(1, dtype=stored.dtype)
        others += torch.matmul(kept, head[start : start + COLUMNS].to(kept.dtype))
    return Sums(anchors.clone(), rest, moment, stored, others)


def _forget(exps: Tensor, places: Tensor) -> None:
    """Zero one column of each row; none where the place is outside."""
    column = places.clamp(0, exps.shape[1] - 1)[:, None]
    inside = (places >= 0) & (places < exps.shape[1])
    exps.scatter_(1, column, torch.where(inside[:, None], 0.0, exps.gather(1, column)))


def any_of(mask: Tensor) -> bool:
    """Whether any is true; the host waits for the device."""
    return bool(mask.any())


def _highest(hidden: Tensor, head: Tensor, inverse: Tensor, rounded: bool) -> Tensor:
    """[T] largest logit of each row."""
    return torch.stack([logits.amax(1) for _, logits in _tiles(hidden, head, inverse, rounded)]).amax(0)
