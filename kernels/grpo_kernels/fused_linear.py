"""The output layer in Triton: launches of triton_linear.py and triton_online.py; plain_linear.py specifies them."""

import torch
import triton
from torch import Tensor

from grpo_kernels import triton_linear as kernels
from grpo_kernels import triton_online as online
from grpo_kernels.tiles import Tiles, tiles_for
from grpo_kernels.types import Sums

SCRATCH = 256 * 2**20
"""Bytes for the exponentials of some rows."""
MOST_ROWS = 65536
"""Of one launch without exponentials: places in the tiles' sums are 32 bits wide."""
SCALE = {torch.float16: 256.0}
"""What exponentials are stored times: those near 1e-7 would vanish in fp16."""
BAND = {torch.float16: 8.0}
"""How far from 1 a row's sum may be, as a factor; further off, fp16 overflows or loses small ones."""
WIDE_BAND = 2.0**40
ROW_COLUMNS, ROW_NUMBERS = 64, 128
"""Of the head that a row, done again, reads at a time."""


def rows_at_once(head: Tensor) -> int:
    """As Kernels has it: a multiple of a tile's rows."""
    tiles = _tiles(head)
    rows = SCRATCH // (len(head) * head.element_size())
    return max(tiles.block_t, rows // tiles.block_t * tiles.block_t)


def target_logit(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, rounded: bool) -> Tensor:
    """[T] logit of each target; 0 for a negative one, which is in another shard of the vocabulary."""
    out = torch.empty_like(inverse)
    rows, width = hidden.shape
    if rows:
        grid = (triton.cdiv(rows, 16),)
        kernels.target_logits[grid](
            hidden, head, targets, inverse, out, rows, width, ROUNDED=rounded, BLOCK_T=16, BLOCK_H=128
        )
    return out


def anchored_sums(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    inverse: Tensor,
    target_logits: Tensor,
    anchors: Tensor,
    rounded: bool,
) -> Sums:
    """As plain_linear.anchored_sums, for contiguous tensors; the host never waits for the device."""
    (rows, width), vocabulary, tiles = hidden.shape, len(head), _tiles(head)
    across = triton.cdiv(vocabulary, tiles.block_v)
    exps = torch.empty(rows, vocabulary, dtype=head.dtype, device=head.device)
    tile_sums, sums = torch.empty(3, rows, across, device=head.device), torch.empty(3, rows, device=head.device)
    anchors = anchors.clone()  # bad ones are replaced
    others = torch.empty(rows, width, device=head.device)
    scale, band = SCALE.get(head.dtype, 1.0), BAND.get(head.dtype, WIDE_BAND)
    down = triton.cdiv(rows, tiles.block_t)
    kernels.anchored_tiles[(down * across,)](
        *(hidden, head, targets, inverse, anchors, exps, *tile_sums, rows, vocabulary, width),
        SCALE=scale,
        BLOCK_T=tiles.block_t,
        BLOCK_V=tiles.block_v,
        BLOCK_H=tiles.block_h,
        ROUNDED=rounded,
        **_launch(tiles),
    )
    kernels.close_rows[(3 * rows,)](
        *(tile_sums, sums, vocabulary),
        BLOCK_V=tiles.block_v,
        TILES=triton.next_power_of_2(across),
        num_warps=4,
    )
    kernels.redo_rows[(rows,)](
        *(hidden, head, targets, inverse, target_logits, anchors, exps, *sums, vocabulary, width),
        *(1.0 / band, band),
        SCALE=scale,
        BLOCK_V=ROW_COLUMNS,
        BLOCK_H=ROW_NUMBERS,
        ROUNDED=rounded,
        num_warps=4,
    )
    kernels.weighted_rows[(down * triton.cdiv(width, tiles.block_v),)](
        *(exps, head, others, rows, vocabulary, width),
        SCALE=scale,
        BLOCK_T=tiles.block_t,
        BLOCK_V=tiles.block_h,
        BLOCK_H=tiles.block_v,
        **_launch(tiles),
    )
    rest, moment, stored = sums
    return Sums(anchors, rest, moment, stored, others)


def linear_logp(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, rounded: bool) -> tuple[Tensor, Tensor]:
    """logp [T] and entropy [T] in nats, without a gradient."""
    logp, entropy, vocabulary, tiles = torch.empty_like(inverse), torch.empty_like(inverse), len(head), _tiles(head)
    across = triton.cdiv(vocabulary, tiles.block_v)
    for start in range(0, len(hidden), MOST_ROWS):
        part = slice(start, start + MOST_ROWS)
        rows, width = hidden[part].shape
        top, rest, moment = (torch.empty(rows, across, device=head.device) for _ in range(3))
        logits = torch.empty(rows, device=head.device)
        online.online_tiles[(triton.cdiv(rows, tiles.block_t) * across,)](
            *(hidden[part], head, targets[part], inverse[part], top, rest, moment, logits, rows, vocabulary, width),
            BLOCK_T=tiles.block_t,
            BLOCK_V=tiles.block_v,
            BLOCK_H=tiles.block_h,
            ROUNDED=rounded,
            **_launch(tiles),
        )
        online.close_online[(rows,)](
            *(top, rest, moment, logits, logp[part], entropy[part], vocabulary),
            BLOCK_V=tiles.block_v,
            TILES=triton.next_power_of_2(across),
            num_warps=4,
        )
    return logp, entropy


def _tiles(head: Tensor) -> Tiles:
    capability = torch.cuda.get_device_capability(head.device) if head.is_cuda else (8, 0)
    return tiles_for(capability, head.element_size())


def _launch(tiles: Tiles) -> dict[str, object]:
    return {"GROUP": tiles.group, "PRECISION": "ieee", "num_warps": tiles.warps, "num_stages": tiles.stages}
