"""How the kernels cut their work, by what a card can hold. Pure.

Shared memory of one block is (BLOCK_T + BLOCK_V) x BLOCK_H x bytes x stages; a block may have 227 KiB on sm_90 and
sm_100, 163 on sm_80, and 99 on sm_86, sm_89 and sm_120 (CUDA C++ Programming Guide, table of compute capabilities).
"""

from dataclasses import dataclass

HOPPER, BLACKWELL = (9, 0), (10, 0)
"""Chips whose copy engine the kernels use. On Blackwell nothing was measured: the tiles are those that fit."""


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
    described: bool = False
    """Blocks are fetched and stored by the copy engine (TMA), not by pointers: from sm_90 on."""
    flatten: bool = False
    """A program a processor, which loads its next tile while it sums the last one."""


def tiles_for(capability: tuple[int, int], item_size: int) -> Tiles:
    """For a compute capability, and numbers of 2 or 4 bytes."""
    if item_size == 4:
        return Tiles(block_t=64, block_v=64, block_h=32, warps=4, stages=2)
    if capability == HOPPER:
        return Tiles(block_t=128, block_v=256, block_h=64, warps=8, stages=3, described=True, flatten=True)
    if capability == BLACKWELL:
        return Tiles(block_t=128, block_v=128, block_h=64, warps=16, stages=3, described=True)
    if capability[0] == 12:
        return Tiles(block_t=128, block_v=64, block_h=64, warps=8, stages=3)
    return Tiles(block_t=128, block_v=128, block_h=32, warps=8, stages=4)


def shares_of(rows: int, width: int, tiles: Tiles, processors: int) -> tuple[int, int]:
    """Columns of a tile of the second product [rows, width], and into how many shares its sum is cut.

    Its tiles are few where the hidden size is small. Shares fill the processors once, as well as they can; on an H200
    a second, partly filled turn cost more than processors left idle in the first.
    """
    down = -(-rows // tiles.block_t)
    options = []
    for block in {tiles.block_v, max(tiles.block_v // 2, 16)}:
        across = -(-width // block)
        shares = max(1, processors // (down * across))
        turns = -(-down * across * shares // processors)
        useful = down * across * shares / (turns * processors) * width / (across * block)
        options.append((round(useful, 3), -shares, block))
    _, shares, block = max(options)
    return block, -shares
