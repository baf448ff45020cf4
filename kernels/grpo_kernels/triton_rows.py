"""Triton kernels of single rows: the target's logit, sums closed, rows done again, and a row's end.

Shapes: T tokens, H hidden size, V vocabulary, J parts of the vocabulary. One program per row, but where it says
otherwise; sums have a fixed order.
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


@triton.jit
def close_sums(parts_of_sum, sums, J, PARTS: tl.constexpr):
    """Add up the parts of one row's sum, from [., T, J] to [., T]. One program per row and sum."""
    row = tl.program_id(0)
    place = tl.arange(0, PARTS)
    tl.store(sums + row, tl.sum(tl.load(parts_of_sum + row * J + place, mask=place < J, other=0.0), axis=0))


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
