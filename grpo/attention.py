"""Which tokens of a batch see which, in the form a model's layers take it. Pure.

Some families let part of their layers see only a window of recent tokens (Gemma 3, GPT-OSS, Mistral), and
transformers takes a mask that we bring as it is, for all layers: the window must be in it.

Shapes: R rows, L row length.
"""

from typing import Any

import torch
from torch import Tensor

from grpo.batch import Batch

WINDOWED, FULL = "sliding_attention", "full_attention"
Masks = Tensor | dict[str, Tensor]


def masks(batch: Batch, config: Any, dtype: torch.dtype) -> Masks:
    """[R, 1, L, L], or one such mask for each kind of layer. ``config``: the transformers model's."""
    sees = batch.attends_R1LL
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds and WINDOWED in kinds and window:
        within = sees & near(batch, window)
        return {FULL: additive(sees, dtype), WINDOWED: additive(within, dtype)}
    if not kinds and window and getattr(config, "use_sliding_window", True):
        sees = sees & near(batch, window)
    return additive(sees, dtype)


def near(batch: Batch, window: int) -> Tensor:
    """[R, 1, L, L] whether the other token is fewer than ``window`` places back; places as the model counts them."""
    places = batch.positions_RL
    return places[:, None, :, None] - window < places[:, None, None, :]


def additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token sees another, the least number elsewhere.

    Attention would make this of booleans itself, in each layer anew, and keep every one; eager attention would add the
    booleans.
    """
    return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
