"""How the kernels cut their work, by what a card can hold. Pure.

Shared memory of one block is (BLOCK_T + BLOCK_V) x BLOCK_H x bytes x stages; a block may have 227 KiB on sm_90 and
sm_100, 163 on sm_80, and 99 on sm_86, sm_89 and sm_120 (CUDA C++ Programming Guide, table of compute capabilities).
"""

from dataclasses import dataclass

LARGE = ((9, 0), (10, 0))
"""Chips with room for long stages. Their registers allow no wider tile: at 256 columns a program spills 792 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Rows, vocabulary entries and hidden numbers of a tile of the logits; the second product swaps the last two."""

    block_t: int
    block_v: int
    block_h: int
    warps: int
    stages: int
    group: int = 8
    """Row tiles that go through the columns together."""


def tiles_for(capability: tuple[int, int], item_size: int) -> Tiles:
    """For a compute capability, and numbers of 2 or 4 bytes."""
    if item_size == 4:
        return Tiles(block_t=64, block_v=64, block_h=32, warps=4, stages=2)
    if capability in LARGE:
        return Tiles(block_t=128, block_v=128, block_h=64, warps=8, stages=3)
    if capability[0] == 12:
        return Tiles(block_t=128, block_v=64, block_h=64, warps=8, stages=3)
    return Tiles(block_t=128, block_v=128, block_h=32, warps=8, stages=4)
