"""Triton kernels of the log-probabilities alone: one product, its tiles joined at their common maximum.

Shapes as in triton_linear.py.
"""

import triton
import triton.language as tl

from grpo_kernels.triton_linear import halves, logits_of_tile, place_of_tile


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
    ROUNDED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    """Of half a tile each, its maximum and its sums relative to that: top, rest, moment [T, J].

    The target's logit [T] is stored where it is found; its column counts like any other.
    """
    down, across = tl.cdiv(T, BLOCK_T), tl.cdiv(V, BLOCK_V)
    for tile in tl.range(tl.program_id(0), down * across, tl.num_programs(0), flatten=FLATTEN):
        place, column = place_of_tile(tile, down, across, GROUP)
        row = place * BLOCK_T
        logits = logits_of_tile(
            hidden, head, row, column * BLOCK_V, T, V, H, BLOCK_T, BLOCK_V, BLOCK_H, ROUNDED, DESCRIBED
        )
        rows = row + tl.arange(0, BLOCK_T)
        scale = tl.load(inverse_temperature + rows, mask=rows < T, other=0.0)
        target = tl.load(targets + rows, mask=rows < T, other=-1).to(tl.int32)
        left, right = halves(logits, BLOCK_T, BLOCK_V)
        given = (rows, scale, target, top, rest, moment, target_logit, T, V)
        online_half(left, 2 * column, *given, BLOCK_V // 2)
        online_half(right, 2 * column + 1, *given, BLOCK_V // 2)


@triton.jit
def online_half(logits, part, rows, scale, target, top, rest, moment, target_logit, T, V, WIDTH: tl.constexpr):
    """The maximum and sums of half a tile, at place ``part`` of J."""
    columns = part * WIDTH + tl.arange(0, WIDTH)
    within = (columns < V)[None, :]
    logits = tl.where(within, logits * scale[:, None], float("-inf"))
    highest = tl.max(logits, axis=1)
    away = logits - highest[:, None]
    e = tl.where(within, tl.exp(away), 0.0)
    parts = tl.cdiv(V, WIDTH)
    place, inside = rows * parts + part, (rows < T) & (part < parts)
    tl.store(top + place, highest, mask=inside)
    tl.store(rest + place, tl.sum(e, axis=1), mask=inside)
    tl.store(moment + place, tl.sum(tl.where(within, e * away, 0.0), axis=1), mask=inside)
    own = inside & (target >= 0) & (target // WIDTH == part)
    logit = tl.sum(tl.where(columns[None, :] == target[:, None], logits, 0.0), axis=1)
    tl.store(target_logit + rows, logit, mask=own)


@triton.jit
def close_online(top, rest, moment, target_logit, logp, entropy, J, PARTS: tl.constexpr):
    """Join a row's parts at their common maximum. One program per row."""
    row = tl.program_id(0)
    place = tl.arange(0, PARTS)
    inside = place < J
    tops = tl.load(top + row * J + place, mask=inside, other=float("-inf"))
    highest = tl.max(tops, axis=0)
    down = tl.where(inside, tops - highest, 0.0)
    factor = tl.where(inside, tl.exp(down), 0.0)
    sums = tl.load(rest + row * J + place, mask=inside, other=0.0)
    moments = tl.load(moment + row * J + place, mask=inside, other=0.0)
    total = tl.sum(factor * sums, axis=0)
    first = tl.sum(factor * (moments + down * sums), axis=0)
    tl.store(logp + row, tl.load(target_logit + row) - highest - tl.log(total))
    tl.store(entropy + row, tl.log(total) - first / total)
