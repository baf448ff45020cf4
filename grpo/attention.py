"""Which tokens of a batch see which, in the form a model's layers take it.

On a CPU the layers call ``attention`` below, which goes by blocks where that pays; elsewhere, and where it does not,
they get masks for whole rows. Some families let part of their layers see only a window of recent tokens (Gemma 3,
GPT-OSS, Mistral), and transformers takes a mask that we bring as it is, for all layers: the window must be in it.

Shapes: R rows, L row length; N heads of queries, K of keys and values, D head size.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from grpo.batch import Batch
from grpo.blocks import Blocks, attend, blocks_of, pays

WINDOWED, FULL = "sliding_attention", "full_attention"
OWN = "grpo"
"""Of transformers' forms of attention, the name of ours."""
Form = Literal["auto", "blocks", "rows"]
Masks = Tensor | dict[str, Tensor]


def use_blocks(model: Any) -> None:
    """Let the layers of a transformers model call ``attention``."""
    AttentionInterface.register(OWN, attention)
    AttentionMaskInterface.register(OWN, eager_mask)
    model.set_attn_implementation(OWN)


def by_blocks(config: Any) -> bool:
    """Whether the layers of a model with this configuration call ``attention``."""
    return bool(config._attn_implementation == OWN)


def seen(batch: Batch, config: Any, dtype: torch.dtype, form: Form = "auto") -> dict[str, Any]:
    """Arguments for the forward pass of a transformers model with this configuration."""
    if by_blocks(config) and form != "rows":
        blocks = blocks_of(batch)
        if form == "blocks" or pays(batch, blocks):
            nothing = torch.empty(1, 1, 1, 1)  # a mask of four axes stays as it is; without one the model makes some
            kinds = getattr(config, "layer_types", None) or ()
            return {"attention_mask": dict.fromkeys(kinds, nothing) if WINDOWED in kinds else nothing, "blocks": blocks}
    return {"attention_mask": masks(batch, config, dtype)}


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    blocks: Blocks | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """[R, L, N, D] for ``query`` [R, N, L, D], ``key`` and ``value`` [R, K, L, D], as transformers calls it.

    Without ``blocks``: torch's fused attention, which knows no sinks (``s_aux``), or plain products.
    """
    if blocks is not None:
        return attend(query, key, value, blocks, scale=scaling, window=sliding_window, sinks_N=s_aux), None
    if s_aux is None:
        found: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **rest)[0]
        return found, None
    return by_products(query, key, value, attention_mask, scaling, s_aux), None


def by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, sinks_N: Tensor
) -> Tensor:
    """[R, L, N, D] for whole rows; ``sinks_N`` as in ``attend``."""
    repeated = [x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value)]
    scores = query @ repeated[0].mT * scale
    if mask is not None:
        scores = scores + mask
    sinks = sinks_N.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    weights = torch.cat([scores, sinks], -1).softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return (weights[..., :-1].to(value.dtype) @ repeated[1]).transpose(1, 2).contiguous()


def masks(batch: Batch, config: Any, dtype: torch.dtype) -> Masks:
    """[R, 1, L, L], or one such mask for each kind of layer. ``config``: the transformers model's."""
    sees = batch.attends()
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
