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
def block(
    matrix, row, column, rows, columns, stride, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DESCRIBED: tl.constexpr
):
    """[HEIGHT, WIDTH] from a row and a column on, 0 outside of the matrix [rows, columns].

    By the copy engine where ``matrix`` is a descriptor, else by pointers.
    """
    if DESCRIBED:
        return matrix.load([row, column])
    else:
        down, across = row + tl.arange(0, HEIGHT), column + tl.arange(0, WIDTH)
        mask = (down < rows)[:, None] & (across < columns)[None, :]
        return tl.load(matrix + down.to(tl.int64)[:, None] * stride + across[None, :], mask=mask, other=0.0)


@triton.jit
def logits_of_tile(
    hidden,
    head,
    row,
    column,
    T,
    V,
    H,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    ROUNDED: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """[BLOCK_T, BLOCK_V] in fp32, from a row and a column on; rounded to the head's dtype where asked for."""
    logits = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
    for start in range(0, H, BLOCK_H):
        h = block(hidden, row, start, T, H, H, BLOCK_T, BLOCK_H, DESCRIBED)
        w = block(head, column, start, V, H, H, BLOCK_V, BLOCK_H, DESCRIBED)
        logits = tl.dot(h, w.T, logits, input_precision="ieee")
    if ROUNDED:
        logits = logits.to(hidden.dtype if DESCRIBED else hidden.dtype.element_ty).to(tl.float32)
    return logits


@triton.jit
def halves(tile, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr):
    """Its left and its right columns: sums over one half after the other need fewer registers than over the whole."""
    return tl.split(tl.permute(tl.reshape(tile, [BLOCK_T, 2, BLOCK_V // 2]), [0, 2, 1]))


@triton.jit
def place_of_tile(tile, down, across, GROUP: tl.constexpr):
    """Row and column of a tile; GROUP rows of tiles go through the columns together, for the L2 cache."""
    first = tile // (GROUP * across) * GROUP
    height = min(down - first, GROUP)
    return first + tile % height, tile % (GROUP * across) // height


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
    STRIDE,
    SCALE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP: tl.constexpr,
    ROUNDED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    """Tiles of e = exp(z - anchor), without the target's column; each program takes several, one after the other.

    exps [T, V] gets SCALE * e; rest, moment, stored [T, J] get the sums of e, e (z - anchor), and e as
    stored, over half a tile each.
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
        anchor = tl.load(anchors + rows, mask=rows < T, other=0.0)
        target = tl.load(targets + rows, mask=rows < T, other=-1).to(tl.int32)
        left, right = halves(logits, BLOCK_T, BLOCK_V)
        given = (scale, anchor, target, exps, rest, moment, stored, T, V, STRIDE)
        anchored_half(left, row, 2 * column, *given, SCALE, BLOCK_T, BLOCK_V // 2, DESCRIBED)
        anchored_half(right, row, 2 * column + 1, *given, SCALE, BLOCK_T, BLOCK_V // 2, DESCRIBED)


@triton.jit
def anchored_half(
    logits,
    row,
    part,
    scale,
    anchor,
    target,
    exps,
    rest,
    moment,
    stored,
    T,
    V,
    STRIDE,
    SCALE: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """Store half a tile, from a row on, and its sums at place ``part`` of J."""
    rows = row + tl.arange(0, HEIGHT)
    columns = part * WIDTH + tl.arange(0, WIDTH)
    away = logits * scale[:, None] - anchor[:, None]
    e = tl.where((columns < V)[None, :] & (columns[None, :] != target[:, None]), tl.exp(away), 0.0)
    rounded = (e * SCALE).to(exps.dtype if DESCRIBED else exps.dtype.element_ty)
    if DESCRIBED:
        exps.store([row, part * WIDTH], rounded)
    else:
        place = rows[:, None] * STRIDE + columns[None, :]  # 32 bits: a piece of limited size, and registers are few
        tl.store(exps + place, rounded, mask=(rows < T)[:, None] & (columns < V)[None, :])
    parts = tl.cdiv(V, WIDTH)
    inside = (rows < T) & (part < parts)
    tl.store(rest + rows * parts + part, tl.sum(e, axis=1), mask=inside)
    tl.store(moment + rows * parts + part, tl.sum(e * away, axis=1), mask=inside)
    tl.store(stored + rows * parts + part, tl.sum(rounded.to(tl.float32), axis=1) * (1.0 / SCALE), mask=inside)


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
def close_sums(parts_of_sum, sums, J, PARTS: tl.constexpr):
    """Add up the parts of one row's sum, from [., T, J] to [., T]. One program per row and sum."""
    row = tl.program_id(0)
    place = tl.arange(0, PARTS)
    tl.store(sums + row, tl.sum(tl.load(parts_of_sum + row * J + place, mask=place < J, other=0.0), axis=0))


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
    STRIDE,
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
        tl.store(exps + row.to(tl.int64) * STRIDE + columns, rounded, mask=columns < V)
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
    STRIDE,
    SHARE,
    SCALE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """out [S, T, H] = exps [T, V] @ head [V, H] / SCALE in fp32, each over SHARE columns of the vocabulary.

    One program per tile and share.
    """
    down, across = tl.cdiv(T, BLOCK_T), tl.cdiv(H, BLOCK_H)
    share = tl.program_id(0) // (down * across)
    row, column = place_of_tile(tl.program_id(0) % (down * across), down, across, GROUP)
    total = tl.zeros([BLOCK_T, BLOCK_H], tl.float32)
    for start in range(share * SHARE, min(V, share * SHARE + SHARE), BLOCK_V):
        e = block(exps, row * BLOCK_T, start, T, V, STRIDE, BLOCK_T, BLOCK_V, DESCRIBED)
        w = block(head, start, column * BLOCK_H, V, H, H, BLOCK_V, BLOCK_H, DESCRIBED)
        total = tl.dot(e, w, total, input_precision="ieee")
    rows, columns = row * BLOCK_T + tl.arange(0, BLOCK_T), column * BLOCK_H + tl.arange(0, BLOCK_H)
    place = (share * T + rows).to(tl.int64)[:, None] * H + columns[None, :]
    tl.store(out + place, total * (1.0 / SCALE), mask=(rows < T)[:, None] & (columns < H)[None, :])


@triton.jit(do_not_specialize=["T"])
def close_rows(
    head,
    targets,
    inverse_temperature,
    target_logit,
    anchors,
    rest,
    moment,
    stored,
    others,
    logp,
    entropy,
    jacobian,
    T,
    H,
    SHARES: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """From a row's sums to its log-probability, entropy and J; see linear.py. One program per row."""
    row = tl.program_id(0)
    away = tl.load(target_logit + row) - tl.load(anchors + row)
    own = tl.exp(away)
    without = tl.load(rest + row)
    whole = without + own
    kept = tl.load(stored + row)
    tl.store(logp + row, away - tl.log(whole))
    tl.store(entropy + row, tl.log(whole) - (tl.load(moment + row) + own * away) / whole)
    scale = tl.where(kept > 0.0, without / kept, 0.0) * tl.load(inverse_temperature + row) / whole
    target = tl.load(targets + row).to(tl.int64)
    for start in range(0, H, BLOCK_H):
        at = start + tl.arange(0, BLOCK_H)
        total = tl.zeros([BLOCK_H], tl.float32)
        for share in tl.static_range(SHARES):
            total += tl.load(others + (share * T + row).to(tl.int64) * H + at, mask=at < H, other=0.0)
        w = tl.load(head + target * H + at, mask=at < H, other=0.0).to(tl.float32)
        j = (w * kept - total) * scale
        tl.store(jacobian + row.to(tl.int64) * H + at, j.to(jacobian.dtype.element_ty), mask=at < H)
