"""The output layer in plain torch: the specification of fused_linear.py, and what a CPU runs.

Shapes: T tokens, H hidden size, V vocabulary. Numbers are fp32, or float64 where the inputs are.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from grpo_kernels.types import Sums

ROWS, COLUMNS = 2048, 2048
"""Of one tile of logits, at most. Fewer rows pack the head again and again, more columns leave the cache."""
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


class TileSums(NamedTuple):
    """Of one tile, as in Sums; and its exponentials [T, COLUMNS] as they enter the product."""

    kept: Tensor
    rest: Tensor
    moment: Tensor
    stored: Tensor


def tile_sums(logits: Tensor, inverse: Tensor, anchors: Tensor, places: Tensor, kept: torch.dtype) -> TileSums:
    """Of logits [T, COLUMNS] before the temperature, the rest [T]; ``places``: columns to leave out, some outside.

    Wide logits are overwritten.
    """
    away = logits.to(wide(logits.dtype)).mul_(inverse[:, None]).sub_(anchors[:, None])
    exps = away.exp()
    _forget(exps, places)
    rest = exps.sum(1)
    rounded = exps.to(kept)
    stored = rest if rounded is exps else rounded.sum(1, dtype=rest.dtype)
    return TileSums(rounded, rest, away.mul_(exps).sum(1), stored)


def anchored_sums(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    inverse: Tensor,
    target_logits: Tensor,
    anchors: Tensor,
    rounded: bool,
    of_tile: Callable[..., TileSums] = tile_sums,
) -> Sums:
    """hidden [T, H], head [V, H], the rest [T]; targets that are negative are in another shard of the vocabulary.

    Rows that lost numbers to overflow or underflow are done again, anchored at their largest logit.
    """
    sums = _sums(hidden, head, targets, inverse, anchors, rounded, of_tile)
    whole = sums.rest + (target_logits - anchors).exp()
    lost = ~((whole >= LOW) & (whole <= HIGH))
    if any_of(lost):
        rows = lost.nonzero()[:, 0]
        part, scale = hidden[rows], inverse[rows]
        top = torch.maximum(_highest(part, head, scale, rounded), target_logits[rows])
        again = _sums(part, head, targets[rows], scale, top, rounded, of_tile)
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
        for away in _tiles(hidden[part], head, inverse[part], rounded):
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


def _products(hidden: Tensor, head: Tensor, rounded: bool) -> Iterator[tuple[int, Tensor]]:
    """First column and product [T, COLUMNS] of each tile; one in 16 bits rounds its logits by itself."""
    kind = head.dtype if rounded else wide(head.dtype)
    for start in range(0, len(head), COLUMNS):
        yield start, torch.matmul(hidden.to(kind), head[start : start + COLUMNS].to(kind).T)


def _tiles(hidden: Tensor, head: Tensor, inverse: Tensor, rounded: bool) -> Iterator[Tensor]:
    """Logits [T, COLUMNS] of each tile."""
    for _, logits in _products(hidden, head, rounded):
        yield logits.to(wide(head.dtype)).mul_(inverse[:, None])


def _sums(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    inverse: Tensor,
    anchors: Tensor,
    rounded: bool,
    of_tile: Callable[..., TileSums],
) -> Sums:
    rest, moment, stored = (torch.zeros_like(anchors) for _ in range(3))
    others = torch.zeros(hidden.shape, dtype=wide(head.dtype), device=hidden.device)
    # fp16 reaches from 6e-8 to 65504 only: too little for exponentials
    dtype = wide(head.dtype) if head.dtype == torch.float16 else head.dtype
    for start, logits in _products(hidden, head, rounded):
        tile = of_tile(logits, inverse, anchors, targets - start, dtype)
        if any_of(~tile.rest.isfinite()):
            tile.kept[~tile.rest.isfinite()] = 0.0  # the row is lost; in a bf16 product on a CPU it would spoil others
        rest += tile.rest
        moment += tile.moment
        stored += tile.stored
        others += torch.matmul(tile.kept, head[start : start + COLUMNS].to(dtype))
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
    return torch.stack([logits.amax(1) for logits in _tiles(hidden, head, inverse, rounded)]).amax(0)
