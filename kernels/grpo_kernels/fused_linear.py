"""The output layer in Triton: launches of triton_linear, _online and _rows.py; plain_linear.py specifies them."""

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from grpo_kernels import triton_linear as kernels
from grpo_kernels import triton_online as online
from grpo_kernels import triton_rows as by_row
from grpo_kernels.tiles import Product, Tiles, shares_of, tiles_for
from grpo_kernels.types import Sums

SCRATCH = 256 * 2**20
"""Bytes for the exponentials of some rows."""
MOST_ROWS_OF_A_PIECE = 2048
"""With exponentials: micro-batches are powers of two, and their pieces then full."""
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
    rows = min(MOST_ROWS_OF_A_PIECE, SCRATCH // (len(head) * head.element_size()))
    return max(tiles.block_t, rows // tiles.block_t * tiles.block_t)


def target_logit(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, rounded: bool) -> Tensor:
    """[T] logit of each target; 0 for a negative one, which is in another shard of the vocabulary."""
    out = torch.empty_like(inverse)
    rows, width = hidden.shape
    if rows:
        grid = (triton.cdiv(rows, 4),)
        by_row.target_logits[grid](
            hidden, head, targets, inverse, out, rows, width, ROUNDED=rounded, BLOCK_T=4, BLOCK_H=256
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
    parts, anchors = triton.cdiv(vocabulary, tiles.block_v // 2), anchors.clone()  # bad ones are replaced
    exps = torch.empty(rows, _rounded_up(vocabulary, head), dtype=head.dtype, device=head.device)
    part_sums, sums = torch.empty(3, rows, parts, device=head.device), torch.empty(3, rows, device=head.device)
    scale, band = SCALE.get(head.dtype, 1.0), BAND.get(head.dtype, WIDE_BAND)
    described = tiles.described and _aligned(hidden) and _aligned(head)
    kernels.anchored_tiles[(_programs(head, rows, tiles),)](
        _matrix(hidden, tiles.block_t, tiles.block_h, described),
        _matrix(head, tiles.block_v, tiles.block_h, described),
        *(targets, inverse, anchors, _matrix(exps[:, :vocabulary], tiles.block_t, tiles.block_v // 2, described)),
        *(*part_sums, rows, vocabulary, width, exps.stride(0)),
        SCALE=scale,
        ROUNDED=rounded,
        FLATTEN=tiles.flatten,
        DESCRIBED=described,
        **_launch(tiles),
    )
    by_row.close_sums[(3 * rows,)](part_sums, sums, parts, **_whole_row(parts))
    by_row.redo_rows[(rows,)](
        *(hidden, head, targets, inverse, target_logits, anchors, exps, *sums, vocabulary, width, exps.stride(0)),
        *(1.0 / band, band),
        SCALE=scale,
        BLOCK_V=ROW_COLUMNS,
        BLOCK_H=ROW_NUMBERS,
        ROUNDED=rounded,
        num_warps=4,
    )
    rest, moment, stored = sums
    return Sums(anchors, rest, moment, stored, _weighted(exps[:, :vocabulary], head, tiles, scale, described))


def _weighted(exps: Tensor, head: Tensor, tiles: Tiles, scale: float, described: bool) -> Tensor:
    """[S, T, H]; S depends on the head and the card alone, so that a row does not depend on its batch."""
    (rows, vocabulary), width = exps.shape, head.shape[1]
    product = Product(rows=rows_at_once(head), vocabulary=vocabulary, width=width, processors=_processors(head))
    block, shares = shares_of(product, tiles)
    share = triton.cdiv(triton.cdiv(vocabulary, tiles.block_h), shares) * tiles.block_h
    out = torch.empty(shares, rows, width, device=head.device)
    kernels.weighted_rows[(triton.cdiv(rows, tiles.block_t) * triton.cdiv(width, block) * shares,)](
        *(_matrix(exps, tiles.block_t, tiles.block_h, described), _matrix(head, tiles.block_h, block, described), out),
        *(rows, vocabulary, width, exps.stride(0), share),
        SCALE=scale,
        DESCRIBED=described,
        **_launch(tiles) | {"BLOCK_V": tiles.block_h, "BLOCK_H": block},
    )
    return out


def close(
    head: Tensor,
    targets: Tensor,
    inverse: Tensor,
    target_logits: Tensor,
    sums: Sums,
    out: list[Tensor],
) -> None:
    """As plain_linear.close, in one launch."""
    shares, rows, width = sums.others.shape
    by_row.close_rows[(rows,)](
        *(head, targets, inverse, target_logits, *sums, *out, rows, width),
        SHARES=shares,
        BLOCK_H=min(1024, triton.next_power_of_2(width)),
        num_warps=4,
    )


def linear_logp(hidden: Tensor, head: Tensor, targets: Tensor, inverse: Tensor, rounded: bool) -> tuple[Tensor, Tensor]:
    """logp [T] and entropy [T] in nats, without a gradient."""
    logp, entropy, vocabulary, tiles = torch.empty_like(inverse), torch.empty_like(inverse), len(head), _tiles(head)
    parts = triton.cdiv(vocabulary, tiles.block_v // 2)
    for start in range(0, len(hidden), MOST_ROWS):
        some = slice(start, start + MOST_ROWS)
        rows, width = hidden[some].shape
        top, rest, moment = (torch.empty(rows, parts, device=head.device) for _ in range(3))
        logits = torch.empty(rows, device=head.device)
        h, described = hidden[some], tiles.described and _aligned(hidden[some]) and _aligned(head)
        online.online_tiles[(_programs(head, rows, tiles),)](
            *(
                _matrix(h, tiles.block_t, tiles.block_h, described),
                _matrix(head, tiles.block_v, tiles.block_h, described),
            ),
            *(targets[some], inverse[some], top, rest, moment, logits, rows, vocabulary, width),
            ROUNDED=rounded,
            FLATTEN=tiles.flatten,
            DESCRIBED=described,
            **_launch(tiles),
        )
        online.close_online[(rows,)](
            *(top, rest, moment, logits, logp[some], entropy[some], parts), **_whole_row(parts)
        )
    return logp, entropy


def _tiles(head: Tensor) -> Tiles:
    capability = torch.cuda.get_device_capability(head.device) if head.is_cuda else (8, 0)
    return tiles_for(capability, head.element_size())


def _processors(head: Tensor) -> int:
    return torch.cuda.get_device_properties(head.device).multi_processor_count if head.is_cuda else 108


def _programs(head: Tensor, rows: int, tiles: Tiles) -> int:
    """One a tile, or one a processor, which then works off several."""
    count = triton.cdiv(rows, tiles.block_t) * triton.cdiv(len(head), tiles.block_v)
    return min(int(count), _processors(head)) if tiles.flatten else int(count)


def _aligned(matrix: Tensor) -> bool:
    """Whether its rows start at multiples of 16 bytes, as the card's copy engine wants them."""
    return matrix.stride(0) * matrix.element_size() % 16 == 0 and matrix.data_ptr() % 16 == 0


def _matrix(matrix: Tensor, rows: int, columns: int, described: bool) -> Tensor | TensorDescriptor:
    """Itself, or its description for the copy engine, which fetches blocks of this size."""
    if not described:
        return matrix
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [rows, columns])


def _whole_row(parts: int) -> dict[str, int]:
    """One program for all parts of a row; many need more registers than four warps have."""
    return {"PARTS": triton.next_power_of_2(parts), "num_warps": 4 if parts <= 4096 else 8}


def _rounded_up(width: int, like: Tensor) -> int:
    step = 16 // like.element_size()
    return -(-width // step) * step


def _launch(tiles: Tiles) -> dict[str, int]:
    blocks = {"BLOCK_T": tiles.block_t, "BLOCK_V": tiles.block_v, "BLOCK_H": tiles.block_h}
    return blocks | {
        "GROUP": tiles.group,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }
