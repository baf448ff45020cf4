"""Triton kernels of the output layer: logits tile by tile, their softmax sums, and the sums of the head's rows.

Shapes: T tokens, H hidden size, V vocabulary, J tiles of BLOCK_V columns. Everything is row-major. No atomics: every
sum is formed by one program in a fixed order, so that a row's result depends neither on the run nor on the other rows.
"""

import triton
import triton.language as tl


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
