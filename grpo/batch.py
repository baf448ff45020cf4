"""Sequences in, tensors out. The only place where tokens shift by one, and where the loss mask is decided.

A row holds one prompt once, followed by all of its completions: the prompt's forward pass is shared by its group.

    tokens     p0 p1 p2 | a0 a1 a2 | b0 b1
    positions   0  1  2 |  3  4  5 |  3  4
    attends     prompt causally; a completion the whole prompt and itself causally, never another completion

Shapes: R rows, L row length, S sequences, T tokens of the batch that the policy sampled, sequence by sequence; what an
environment wrote is context.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from grpo.types import Sequence

PADDING = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One forward pass. T runs over every sampled token, row by row."""

    input_ids_RL: Tensor
    positions_RL: Tensor
    segments_RL: Tensor
    """0 for a row's prompt, 1, 2, ... for its completions, PADDING behind them."""
    source_T: Tensor
    """Index into the flattened [R * L] hidden states of the position that predicts the token."""
    target_T: Tensor
    sampler_logprobs_T: Tensor
    advantages_S: Tensor
    weights_S: Tensor
    """What each token of a sequence counts in the loss."""
    offsets_S1: Tensor
    """[S + 1] where in T a sequence starts, and the end."""

    def attends(self) -> Tensor:
        """[R, 1, L, L] true where the row's token (third axis) may see the other (fourth axis).

        Padding sees the prompt and itself: no softmax is empty.
        """
        mine, other = self.segments_RL[:, None, :, None], self.segments_RL[:, None, None, :]
        length = self.segments_RL.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=mine.device).tril()
        return before & ((other == 0) | (other == mine))

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})


def pack(sequences: Seq[Sequence], max_tokens: int) -> list[Batch]:
    """Micro-batches of at most ``max_tokens`` padded tokens each (one oversized row makes a batch of its own).

    Rows keep the order of ``sequences``; a group is split over rows where it would not fit into one.
    """
    batches: list[list[list[Sequence]]] = []
    width = 0
    for row in _rows(sequences, max_tokens):
        length = _length(row)
        if batches and max(width, length) * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(row)
            width = max(width, length)
        else:
            batches.append([row])
            width = length
    return [_collate(rows) for rows in batches]


def _rows(sequences: Seq[Sequence], max_tokens: int) -> list[list[Sequence]]:
    rows: list[list[Sequence]] = []
    for _, members in groupby(sequences, key=lambda s: s.group):
        rows.append([])
        for sequence in members:
            if rows[-1] and _length(rows[-1]) + len(sequence.completion_ids) > max_tokens:
                rows.append([])
            rows[-1].append(sequence)
    return rows


def _length(row: Seq[Sequence]) -> int:
    return len(row[0].prompt_ids) + sum(len(s.completion_ids) for s in row)


def _collate(rows: Seq[Seq[Sequence]]) -> Batch:
    length = max(_length(row) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), PADDING)
    source: list[int] = []
    for r, row in enumerate(rows):
        source += [r * length + place for place in _fill(row, tokens[r], positions[r], segments[r])]
    flat = [s for row in rows for s in row]
    own = [(s, place) for s in flat for place in s.own]
    return Batch(
        input_ids_RL=tokens,
        positions_RL=positions,
        segments_RL=segments,
        source_T=torch.tensor(source, dtype=torch.long),
        target_T=torch.tensor([s.completion_ids[place] for s, place in own], dtype=torch.long),
        sampler_logprobs_T=torch.tensor([s.sampler_logprobs[place] for s, place in own], dtype=torch.float32),
        advantages_S=torch.tensor([s.advantage for s in flat], dtype=torch.float32),
        weights_S=torch.tensor([s.weight for s in flat], dtype=torch.float32),
        offsets_S1=torch.tensor([0, *(len(s.own) for s in flat)]).cumsum(0),
    )


def _fill(row: Seq[Sequence], tokens: Tensor, positions: Tensor, segments: Tensor) -> list[int]:
    """Write one row in place; return, for each token the policy sampled, the position in the row that predicts it."""
    prompt = len(row[0].prompt_ids)
    tokens[:prompt] = torch.tensor(row[0].prompt_ids)
    positions[:prompt] = torch.arange(prompt)
    segments[:prompt] = 0
    source: list[int] = []
    start = prompt
    for number, sequence in enumerate(row, 1):
        count = len(sequence.completion_ids)
        part = slice(start, start + count)
        tokens[part] = torch.tensor(sequence.completion_ids)
        positions[part] = torch.arange(prompt, prompt + count)
        segments[part] = number
        source += [start + place - 1 if place else prompt - 1 for place in sequence.own]
        start += count
    return source
