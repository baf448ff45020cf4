"""An adapter folded into the weights it was trained on, without losing it to rounding. Pure.

Numbers of 16 bits lie on a grid, and what the first updates add to a weight is less than half of its spacing: rounded
to the nearest, most of an update is gone (docs/log.md). So each sum is rounded up or down with the odds of its place
between its two neighbours, which keeps it on average (stochastic rounding; Gupta et al. 2015, arXiv:1502.02551, section
3). The odds are drawn once for each weight: the same adapter gives the same numbers, a weight to which nothing is added
stays as it is, and what changes between two syncs is the update.
"""

import torch
from torch import Tensor

DROPPED_BITS = {torch.bfloat16: 16, torch.float16: 13}
"""Of a float32's fraction, for which the dtype has no room. Below 6e-5 float16 has room for fewer, and numbers there
are rounded to the nearest."""


@torch.no_grad()
def fold(weight: Tensor, delta: Tensor, seed: int) -> Tensor:
    """``weight + delta`` in the dtype of ``weight``, [out, in] each; ``seed``: of the odds, another for each matrix."""
    sums = weight.to(torch.float32, copy=True).add_(delta)
    dropped = DROPPED_BITS.get(weight.dtype)
    if dropped is None:
        return sums.to(weight.dtype)
    # As integers, floats of either sign grow in magnitude; what reaches the bits that stay is a carry.
    sums.view(torch.int32).add_(_odds(sums, dropped, seed)).bitwise_and_(-(1 << dropped))
    return sums.to(weight.dtype)


def _odds(sums: Tensor, bits: int, seed: int) -> Tensor:
    """Integers below ``2 ** bits``, each equally likely, of the shape of ``sums``.

    A draw for its row plus a draw for its column: a draw for every weight takes several times as long, and measured no
    better.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randint(1 << bits, (n,), generator=generator, dtype=torch.int32) for n in sums.shape)
    return rows.to(sums.device)[:, None].add(columns.to(sums.device)).bitwise_and_((1 << bits) - 1)
