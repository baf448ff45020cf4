"""Triton kernels of the output layer: logits tile by tile, their softmax sums, and the sums of the head's rows.

Shapes: T tokens, H hidden size, V vocabulary, J tiles of BLOCK_V columns. Everything is row-major. No atomics: every
sum is formed by one program in a fixed order, so that a row's result depends neither on the run nor on the other rows.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T"])
def target_logits(
    hidden,
    head,
    targets,
    inverse_temperature,
    out,
    T,
    H,
    ROUNDED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """out [T] = (hidden_t . head[target_t]) / temperature_t; 0 where the target is negative."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    inside = rows < T
    target = tl.load(targets + rows, mask=inside, other=-1).to(tl.int64)
    known = inside & (target >= 0)
    total = tl.zeros([BLOCK_T], tl.float32)
    for start in range(0, H, BLOCK_H):
        at = start + tl.arange(0, BLOCK_H)
        mask = known[:, None] & (at < H)[None, :]
        h = tl.load(hidden + rows.to(tl.int64)[:, None] * H + at[None, :], mask=mask, other=0.0).to(tl.float32)
        w = tl.load(head + target[:, None] * H + at[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(h * w, axis=1)
    if ROUNDED:
        total = total.to(head.dtype.element_ty).to(tl.float32)
    scale = tl.load(inverse_temperature + rows, mask=inside, other=0.0)
    tl.store(out + rows, total * scale, mask=inside)


@triton.jit
def logits_of_tile(
    hidden,
    head,
    inverse_temperature,
    rows,
    columns,
    T,
    V,
    H,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUNDED: tl.constexpr,
):
    """[BLOCK_T, BLOCK_V] in fp32, rounded to the head's dtype before the temperature where asked for.

    What lies outside is garbage.
    """
    logits = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
    from_row = hidden + rows.to(tl.int64)[:, None] * H
    from_column = head + columns.to(tl.int64)[None, :] * H
    for start in range(0, H, BLOCK_H):
        at = start + tl.arange(0, BLOCK_H)
        h = tl.load(from_row + at[None, :], mask=(rows < T)[:, None] & (at < H)[None, :], other=0.0)
        w = tl.load(from_column + at[:, None], mask=(columns < V)[None, :] & (at < H)[:, None], other=0.0)
        logits = tl.dot(h, w, logits, input_precision=PRECISION)
    if ROUNDED:
        logits = logits.to(head.dtype.element_ty).to(tl.float32)
    return logits * tl.load(inverse_temperature + rows, mask=rows < T, other=0.0)[:, None]


@triton.jit
def tile_of_program(T, V, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, GROUP: tl.constexpr):
    """Row and column of this program's tile; GROUP row tiles go through the columns together, for the L2 cache."""
    down, across = tl.cdiv(T, BLOCK_T), tl.cdiv(V, BLOCK_V)
    place = tl.program_id(0)
    first = place // (GROUP * across) * GROUP
    height = min(down - first, GROUP)
    return first + place % height, place % (GROUP * across) // height


@triton.jit(do_not_specialize=["T"])
def anchored_tiles(
    hidden,
    head,
    targets,
    inverse_temperature,
    anchors,
    exps,
    rest,
    moment,
    stored,
    T,
    V,
    H,
    SCALE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUNDED: tl.constexpr,
):
    """One tile of e = exp(z - anchor), without the target's column.

    exps [T, V] gets SCALE * e; rest, moment, stored [T, J] get the tile's sums of e, e (z - anchor), and e as stored.
    """
    down, across = tile_of_program(T, V, BLOCK_T, BLOCK_V, GROUP)
    rows = down * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = across * BLOCK_V + tl.arange(0, BLOCK_V)
    logits = logits_of_tile(
        hidden, head, inverse_temperature, rows, columns, T, V, H, BLOCK_T, BLOCK_V, BLOCK_H, PRECISION, ROUNDED
    )
    inside = rows < T
    away = logits - tl.load(anchors + rows, mask=inside, other=0.0)[:, None]
    target = tl.load(targets + rows, mask=inside, other=-1)
    e = tl.where((columns < V)[None, :] & (columns[None, :] != target[:, None]), tl.exp(away), 0.0)
    place = rows[:, None] * V + columns[None, :]  # 32 bits: exps are a piece of limited size, and registers are few
    rounded = (e * SCALE).to(exps.dtype.element_ty)
    tl.store(exps + place, rounded, mask=inside[:, None] & (columns < V)[None, :])
    tiles = tl.cdiv(V, BLOCK_V)
    tl.store(rest + rows * tiles + across, tl.sum(e, axis=1), mask=inside)
    tl.store(moment + rows * tiles + across, tl.sum(e * away, axis=1), mask=inside)
    tl.store(stored + rows * tiles + across, tl.sum(rounded.to(tl.float32), axis=1) * (1.0 / SCALE), mask=inside)


@triton.jit
def logits_of_row(
    hidden, head, scale, row, columns, V, H, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr, ROUNDED: tl.constexpr
):
    """[BLOCK_V] of one row in fp32; -inf outside the vocabulary."""
    logits = tl.zeros([BLOCK_V], tl.float32)
    for start in range(0, H, BLOCK_H):
        at = start + tl.arange(0, BLOCK_H)
        h = tl.load(hidden + row.to(tl.int64) * H + at, mask=at < H, other=0.0).to(tl.float32)
        mask = (columns < V)[:, None] & (at < H)[None, :]
        w = tl.load(head + columns.to(tl.int64)[:, None] * H + at[None, :], mask=mask, other=0.0).to(tl.float32)
        logits += tl.sum(w * h[None, :], axis=1)
    if ROUNDED:
        logits = logits.to(head.dtype.element_ty).to(tl.float32)
    return tl.where(columns < V, logits * scale, float("-inf"))


@triton.jit
def close_rows(tiles_of_sum, sums, V, BLOCK_V: tl.constexpr, TILES: tl.constexpr):
    """Add up the tiles of one row's sum, from [., T, J] to [., T]. One program per row and sum."""
    row = tl.program_id(0)
    tiles = tl.cdiv(V, BLOCK_V)
    place = tl.arange(0, TILES)
    tl.store(sums + row, tl.sum(tl.load(tiles_of_sum + row * tiles + place, mask=place < tiles, other=0.0), axis=0))


@triton.jit
def redo_rows(
    hidden,
    head,
    targets,
    inverse_temperature,
    target_logit,
    anchors,
    exps,
    rest,
    moment,
    stored,
    V,
    H,
    low,
    high,
    SCALE: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    ROUNDED: tl.constexpr,
):
    """Where an anchor was so far off that numbers were lost: the row again, anchored at its maximum.

    The whole sum, target included, must lie within low and high; NaN counts as outside. One program per row; nearly all
    end after the first lines.
    """
    row = tl.program_id(0)
    logit = tl.load(target_logit + row)
    whole = tl.load(rest + row) + tl.exp(logit - tl.load(anchors + row))
    if (whole >= low) & (whole <= high):
        return
    scale, target = tl.load(inverse_temperature + row), tl.load(targets + row)
    top = logit
    for start in range(0, V, BLOCK_V):
        columns = start + tl.arange(0, BLOCK_V)
        top = tl.maximum(
            top, tl.max(logits_of_row(hidden, head, scale, row, columns, V, H, BLOCK_V, BLOCK_H, ROUNDED), axis=0)
        )
    total = tl.zeros([BLOCK_V], tl.float32)
    first = tl.zeros([BLOCK_V], tl.float32)
    kept = tl.zeros([BLOCK_V], tl.float32)
    for start in range(0, V, BLOCK_V):
        columns = start + tl.arange(0, BLOCK_V)
        away = logits_of_row(hidden, head, scale, row, columns, V, H, BLOCK_V, BLOCK_H, ROUNDED) - top
        counts = (columns < V) & (columns != target)
        e = tl.where(counts, tl.exp(away), 0.0)
        rounded = (e * SCALE).to(exps.dtype.element_ty)
        tl.store(exps + row.to(tl.int64) * V + columns, rounded, mask=columns < V)
        kept += rounded.to(tl.float32)
        total += e
        first += tl.where(counts, e * away, 0.0)
    tl.store(anchors + row, top)
    tl.store(rest + row, tl.sum(total, axis=0))
    tl.store(moment + row, tl.sum(first, axis=0))
    tl.store(stored + row, tl.sum(kept, axis=0) * (1.0 / SCALE))


@triton.jit(do_not_specialize=["T"])
def weighted_rows(
    exps,
    head,
    out,
    T,
    V,
    H,
    SCALE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out [T, H] = exps [T, V] @ head [V, H] / SCALE, in fp32."""
    down, across = tile_of_program(T, H, BLOCK_T, BLOCK_H, GROUP)
    rows = down * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = across * BLOCK_H + tl.arange(0, BLOCK_H)
    total = tl.zeros([BLOCK_T, BLOCK_H], tl.float32)
    from_row = exps + rows.to(tl.int64)[:, None] * V
    for start in range(0, V, BLOCK_V):
        at = start + tl.arange(0, BLOCK_V)
        e = tl.load(from_row + at[None, :], mask=(rows < T)[:, None] & (at < V)[None, :], other=0.0)
        from_head = head + at.to(tl.int64)[:, None] * H + columns[None, :]
        w = tl.load(from_head, mask=(at < V)[:, None] & (columns < H)[None, :], other=0.0)
        total = tl.dot(e, w, total, input_precision=PRECISION)
    place = rows.to(tl.int64)[:, None] * H + columns[None, :]
    tl.store(out + place, total * (1.0 / SCALE), mask=(rows < T)[:, None] & (columns < H)[None, :])
