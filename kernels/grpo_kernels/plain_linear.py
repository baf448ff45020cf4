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


def target_logit(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor) -> Tensor:
    """[T] logit of each target; 0 for a negative one, which is in another shard of the vocabulary."""
    own = head[targets.clamp(min=0)].to(wide(head.dtype))
    return torch.where(targets >= 0, (hidden.to(own.dtype) * own).sum(1) * inverse, 0.0)


def anchored_sums(
    hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, target_logits: Tensor, anchors: Tensor
) -> Sums:
    """hidden [T, H], head [V, H], the rest [T]; targets that are negative are in another shard of the vocabulary.

    Rows that lost numbers to overflow or underflow are done again, anchored at their largest logit.
    """
    hidden, head = _spacious(hidden, head)
    sums = _sums(hidden, head, targets, inverse, anchors)
    whole = sums.rest + (target_logits - anchors).exp()
    lost = ~((whole >= LOW) & (whole <= HIGH))
    if any_of(lost):
        rows = lost.nonzero()[:, 0]
        part = hidden[rows], head, targets[rows], inverse[rows]
        again = _sums(*part, torch.maximum(_highest(*part), target_logits[rows]))
        for all_of, found in zip(sums, again, strict=True):
            all_of[rows] = found
    return sums


def linear_logp(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """logp [T] and entropy [T] in nats, without a gradient: tiles joined at a running maximum."""
    kind = wide(hidden.dtype)
    hidden, head = _spacious(hidden, head)
    logp, entropy = (torch.empty(len(hidden), dtype=kind, device=hidden.device) for _ in range(2))
    for start in range(0, len(hidden), ROWS):
        part = slice(start, start + ROWS)
        top = torch.full_like(logp[part], -torch.inf)
        total, moment = torch.zeros_like(top), torch.zeros_like(top)
        for _, away in _tiles(hidden[part], head, inverse[part]):
            highest = torch.maximum(top, away.amax(1))
            down = torch.where(top.isinf(), 0.0, top - highest)
            away -= highest[:, None]
            exps = away.exp()
            moment = down.exp() * (moment + down * total) + (exps * away).sum(1)
            total = down.exp() * total + exps.sum(1)
            top = highest
        logits = target_logit(hidden[part], head, targets[part], inverse[part])
        logp[part] = logits - top - total.log()
        entropy[part] = total.log() - moment / total
    return logp, entropy


def _tiles(hidden: Tensor, head: Tensor, inverse: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First column and logits [T, COLUMNS] of each tile."""
    for start in range(0, len(head), COLUMNS):
        logits = torch.matmul(hidden, head[start : start + COLUMNS].T).to(wide(head.dtype))
        yield start, logits.mul_(inverse[:, None])


def _spacious(hidden: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """In fp32 where they were in fp16, which reaches from 6e-8 to 65504 only: too little for exponentials."""
    return (hidden.float(), head.float()) if head.dtype == torch.float16 else (hidden, head)


def _sums(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, anchors: Tensor) -> Sums:
    rest, moment, stored = (torch.zeros_like(anchors) for _ in range(3))
    others = torch.zeros(hidden.shape, dtype=wide(head.dtype), device=hidden.device)
    for start, away in _tiles(hidden, head, inverse):
        away -= anchors[:, None]
        exps = away.exp()
        _forget(exps, targets - start)
        tile = exps.sum(1)
        if any_of(~tile.isfinite()):
            exps[~tile.isfinite()] = 0.0  # the row is lost; in a bf16 product on a CPU it would spoil its neighbours
        rest += tile
        moment += away.mul_(exps).sum(1)
        rounded = exps.to(head.dtype)
        stored += tile if rounded is exps else rounded.sum(1, dtype=stored.dtype)
        others += torch.matmul(rounded, head[start : start + COLUMNS])
    return Sums(anchors.clone(), rest, moment, stored, others)


def _forget(exps: Tensor, places: Tensor) -> None:
    """Zero one column of each row; none where the place is outside."""
    column = places.clamp(0, exps.shape[1] - 1)[:, None]
    inside = (places >= 0) & (places < exps.shape[1])
    exps.scatter_(1, column, torch.where(inside[:, None], 0.0, exps.gather(1, column)))


def any_of(mask: Tensor) -> bool:
    """Whether any is true; the host waits for the device."""
    return bool(mask.any())


def _highest(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor) -> Tensor:
    """[T] largest logit of each row."""
    return torch.stack([logits.amax(1) for _, logits in _tiles(hidden, head, inverse)]).amax(0)
