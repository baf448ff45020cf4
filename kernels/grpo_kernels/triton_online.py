"""Triton kernels of the log-probabilities alone: one product, its tiles joined at their common maximum.

Shapes as in triton_linear.py.
"""

import triton
import triton.language as tl

from grpo_kernels.triton_linear import logits_of_tile, tile_of_program


@triton.jit(do_not_specialize=["T"])
def online_tiles(
    hidden,
    head,
    targets,
    inverse_temperature,
    top,
    rest,
    moment,
    target_logit,
    T,
    V,
    H,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUNDED: tl.constexpr,
):
    """One tile's maximum, and its sums relative to that: top, rest, moment [T, J]; the target's logit [T] where it is.

    The target's column counts like any other.
    """
    down, across = tile_of_program(T, V, BLOCK_T, BLOCK_V, GROUP)
    rows = down * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = across * BLOCK_V + tl.arange(0, BLOCK_V)
    logits = logits_of_tile(
        hidden, head, inverse_temperature, rows, columns, T, V, H, BLOCK_T, BLOCK_V, BLOCK_H, PRECISION, ROUNDED
    )
    inside, within = rows < T, (columns < V)[None, :]
    logits = tl.where(within, logits, float("-inf"))
    highest = tl.max(logits, axis=1)
    away = logits - highest[:, None]
    e = tl.where(within, tl.exp(away), 0.0)
    tiles = tl.cdiv(V, BLOCK_V)
    place = rows * tiles + across
    tl.store(top + place, highest, mask=inside)
    tl.store(rest + place, tl.sum(e, axis=1), mask=inside)
    tl.store(moment + place, tl.sum(tl.where(within, e * away, 0.0), axis=1), mask=inside)
    target = tl.load(targets + rows, mask=inside, other=-1)
    own = inside & (target // BLOCK_V == across) & (target >= 0)
    logit = tl.sum(tl.where(columns[None, :] == target[:, None], logits, 0.0), axis=1)
    tl.store(target_logit + rows, logit, mask=own)


@triton.jit
def close_online(top, rest, moment, target_logit, logp, entropy, V, BLOCK_V: tl.constexpr, TILES: tl.constexpr):
    """Join a row's tiles at their common maximum. One program per row."""
    row = tl.program_id(0)
    tiles = tl.cdiv(V, BLOCK_V)
    place = tl.arange(0, TILES)
    inside = place < tiles
    tops = tl.load(top + row * tiles + place, mask=inside, other=float("-inf"))
    highest = tl.max(tops, axis=0)
    down = tl.where(inside, tops - highest, 0.0)
    factor = tl.where(inside, tl.exp(down), 0.0)
    sums = tl.load(rest + row * tiles + place, mask=inside, other=0.0)
    moments = tl.load(moment + row * tiles + place, mask=inside, other=0.0)
    total = tl.sum(factor * sums, axis=0)
    first = tl.sum(factor * (moments + down * sums), axis=0)
    tl.store(logp + row, tl.load(target_logit + row) - highest - tl.log(total))
    tl.store(entropy + row, tl.log(total) - first / total)
