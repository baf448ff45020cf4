"""The plain form with the sums over a tile of logits compiled by torch: one pass over it instead of ten. For a CPU.

In plain torch each operation writes a tile to memory and the next one reads it, which takes as long as the products
where these are fast. The first call of each dtype compiles.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from grpo_kernels.plain import PLAIN
from grpo_kernels.plain_linear import TileSums, anchored_sums, wide


@torch.compile(dynamic=True)
def tile_sums(logits: Tensor, inverse: Tensor, anchors: Tensor, places: Tensor, kept: torch.dtype) -> TileSums:
    """As plain_linear.tile_sums, which is the specification."""
    away = logits.to(wide(logits.dtype)) * inverse[:, None] - anchors[:, None]
    columns = torch.arange(logits.shape[1], device=logits.device)
    exps = torch.where(columns == places[:, None], 0.0, away.exp())
    rounded = exps.to(kept)
    return TileSums(rounded, exps.sum(1), (away * exps).sum(1), rounded.to(exps.dtype).sum(1))


COMPILED = replace(PLAIN, name="compiled", anchored_sums=partial(anchored_sums, of_tile=tile_sums))
