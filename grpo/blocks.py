"""Attention of rows that share their prompt, by blocks: the prompt with itself, each completion with prompt and itself.

Of the square of a whole row most is never looked at: of one prompt of 38 tokens with eight completions of 48 a fifth.
Products and a softmax, no fused kernel: on a CPU the backward pass of torch's fused attention takes as long for these
blocks as for whole rows (docs/performance.md).

Shapes: R rows, L row length, P longest prompt, G completions in a row, C longest completion; N heads of queries, K of
keys and values, Q = N / K, D head size. Pure.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.batch import PADDING, Batch

ENOUGH = 0.5
"""Blocks pay where they look at no more than this share of the pairs of tokens in whole rows."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where a batch's tokens are as blocks. Indices are into rows laid end to end."""

    prompt_RP: Tensor
    completion_RGC: Tensor
    place_RL: Tensor
    """Of each token in the blocks laid end to end, a row's prompt first, then its completions."""
    length_R: Tensor
    """Of the prompts."""

    @property
    def size(self) -> tuple[int, int, int, int]:
        """R, P, G, C."""
        return (*self.prompt_RP.shape, *self.completion_RGC.shape[1:])

    @property
    def pairs(self) -> int:
        """Pairs of tokens that the blocks look at."""
        rows, prompt, group, completion = self.size
        return rows * (prompt * prompt + group * completion * (prompt + completion))


def blocks_of(batch: Batch) -> Blocks:
    """What is shorter than the longest is filled up with places of other tokens, which nobody sees."""
    rows, length = batch.segments_RL.shape
    device = batch.segments_RL.device
    segments = torch.arange(max(2, int(batch.segments_RL.max()) + 1), device=device)
    count_RS = (batch.segments_RL[:, None] == segments[:, None]).sum(-1)
    start_RS = count_RS.cumsum(1) - count_RS
    first_R1 = torch.arange(rows, device=device)[:, None] * length
    prompt, completion = (torch.arange(int(n.max()), device=device) for n in (count_RS[:, :1], count_RS[:, 1:]))
    inside_RGC = completion < count_RS[:, 1:, None]
    own_RL = batch.segments_RL.clamp(min=0)
    offset_RL = torch.arange(length, device=device) - start_RS.gather(1, own_RL)
    behind_RL = torch.where(own_RL > 0, len(prompt) + (own_RL - 1) * len(completion), 0)
    size = len(prompt) + (len(segments) - 1) * len(completion)
    place_RL = torch.arange(rows, device=device)[:, None] * size + behind_RL + offset_RL
    return Blocks(
        prompt_RP=first_R1 + torch.where(prompt < count_RS[:, :1], prompt, 0),
        completion_RGC=first_R1[..., None] + torch.where(inside_RGC, start_RS[:, 1:, None] + completion, 0),
        place_RL=torch.where(batch.segments_RL == PADDING, 0, place_RL),
        length_R=count_RS[:, 0],
    )


def pays(batch: Batch, blocks: Blocks) -> bool:
    """Whether blocks leave enough of the rows' squares out to be worth their copies."""
    rows, length = batch.segments_RL.shape
    return blocks.pairs <= ENOUGH * rows * length * length


def attend(
    query_RNLD: Tensor,
    key_RKLD: Tensor,
    value_RKLD: Tensor,
    blocks: Blocks,
    *,
    scale: float,
    window: int | None = None,
    sinks_N: Tensor | None = None,
) -> Tensor:
    """[R, L, N, D]. ``window``: a token sees fewer than so many back. ``sinks_N``: a logit of each head that takes a
    share of its probability and gives nothing (GPT-OSS)."""
    rows, heads, _, head = query_RNLD.shape
    kinds = key_RKLD.shape[1]
    query = (query_RNLD * scale).transpose(1, 2).reshape(-1, kinds, heads // kinds, head)
    key, value = (x.transpose(1, 2).flatten(0, 1) for x in (key_RKLD, value_RKLD))
    sinks = None if sinks_N is None else sinks_N.view(kinds, 1, -1, 1, 1)
    prompt_key, prompt_value = (_taken(x, blocks.prompt_RP).transpose(1, 2) for x in (key, value))

    first = _taken(query, blocks.prompt_RP).permute(0, 2, 3, 1, 4)[:, :, None]
    scores = _times(first, prompt_key.mT)
    weights = _softmax(scores, _prompts_see(blocks, window), sinks)
    of_prompts = _times(weights, prompt_value).permute(0, 4, 2, 1, 3, 5)

    then = _taken(query, blocks.completion_RGC).permute(0, 3, 1, 4, 2, 5)
    own_key, own_value = (_taken(x, blocks.completion_RGC).permute(0, 3, 1, 2, 4).contiguous() for x in (key, value))
    scores = torch.cat([_times(then, prompt_key.mT), _times(then, own_key.mT)], -1)
    weights = _softmax(scores, _completions_see(blocks, window), sinks)
    on_prompt, on_own = torch.split(weights, [prompt_key.shape[2], own_key.shape[3]], -1)
    of_completions = (_times(on_prompt, prompt_value) + _times(on_own, own_value)).permute(0, 2, 4, 1, 3, 5)

    found = [x.reshape(rows, -1, heads, head) for x in (of_prompts, of_completions)]
    return _taken(torch.cat(found, 1).flatten(0, 1), blocks.place_RL)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """Rows of ``values`` at ``places``; on a CPU its backward pass is much faster than that of values[places]."""
    return torch.unflatten(values.index_select(0, places.flatten()), 0, places.shape)


def _times(left: Tensor, right: Tensor) -> Tensor:
    """[R, K, G, Q, C, x] times what all of a row see [R, K, x, y], or each completion its own [R, K, G, x, y]."""
    start = 2 if right.dim() == 4 else 3
    return torch.unflatten(left.flatten(start, 4) @ right, start, left.shape[start:5])


def _softmax(scores: Tensor, sees: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the last axis, in fp32 at the least."""
    wide = scores.masked_fill(~sees, -torch.inf)
    if sinks is not None:
        wide = torch.cat([wide, sinks.to(wide.dtype).expand(*wide.shape[:-1], 1)], -1)
    found = wide.softmax(-1, dtype=torch.promote_types(wide.dtype, torch.float32)).to(scores.dtype)
    return found if sinks is None else found[..., :-1]


def _prompts_see(blocks: Blocks, window: int | None) -> Tensor:
    """[P, P]; what fills a shorter prompt up lies behind all of its tokens."""
    place = torch.arange(blocks.prompt_RP.shape[1], device=blocks.prompt_RP.device)
    return _within(place[:, None], place, window)


def _completions_see(blocks: Blocks, window: int | None) -> Tensor:
    """[R, 1, 1, 1, C, P + C]; what fills a shorter completion up lies behind all of its tokens."""
    device = blocks.prompt_RP.device
    prompt = torch.arange(blocks.prompt_RP.shape[1], device=device)
    own = torch.arange(blocks.completion_RGC.shape[2], device=device)
    length_R11 = blocks.length_R[:, None, None]
    on_prompt = _within(length_R11 + own[:, None], prompt, window) & (prompt < length_R11)
    on_own = _within(own[:, None], own, window).expand(len(length_R11), -1, -1)
    return torch.cat([on_prompt, on_own], -1)[:, None, None, None]


def _within(mine: Tensor, other: Tensor, window: int | None) -> Tensor:
    sees = other <= mine
    return sees if window is None else sees & (mine - other < window)
