"""How the kernels cut their work, by what a card can hold. Pure.

Shared memory of one block is (BLOCK_T + BLOCK_V) x BLOCK_H x bytes x stages; a block may have 227 KiB on sm_90 and
sm_100, 163 on sm_80, and 99 on sm_86, sm_89 and sm_120 (CUDA C++ Programming Guide, table of compute capabilities).
"""

from dataclasses import dataclass
from functools import lru_cache

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


MOST_SHARES, ROOM = 12, 128 * 2**20
"""Of the second product's sum, and bytes for all of them."""
NARROW, TURN, SHARE = 0.57, 15.0, 0.05
"""What an H200 took for a step of half the width, for a turn's start and end, and for a share of a tile, written and
added; in steps of a whole tile (benchmarks/kernels/shares-h200.json)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """The second product, rows x vocabulary times vocabulary x width, on a card with so many processors."""

    rows: int
    """At most."""
    vocabulary: int
    width: int
    processors: int


@lru_cache  # some tenths of a millisecond, in every pass
def shares_of(product: Product, tiles: Tiles) -> tuple[int, int]:
    """Columns of a tile of the second product, and into how many shares its sum over the vocabulary is cut.

    Its tiles are few where the hidden size is small, and a turn of all processors that is not full costs as much as a
    full one. The cut must not depend on how many rows there are, or a row would depend on its batch: the cheapest one
    is taken for pieces of all sizes from half of the rows on, where the largest counts as much as the others together.
    """
    most = -(-product.rows // tiles.block_t)
    fit = max(1, ROOM // (product.rows * product.width * 4))
    options = [(shares, half) for half in (False, True) for shares in range(1, min(MOST_SHARES, fit) + 1)]

    def mean_cost(option: tuple[int, bool]) -> float:
        each = [_cost(product, tiles, down, *option) / down for down in range(most // 2 + 1, most + 1)]
        return each[-1] + sum(each) / len(each)

    shares, half = min(options, key=mean_cost)
    return _columns(tiles, half), shares


def _columns(tiles: Tiles, half: bool) -> int:
    return max(tiles.block_v // 2, 16) if half else tiles.block_v


def _cost(product: Product, tiles: Tiles, down: int, shares: int, half: bool) -> float:
    """Of a piece of so many tiles of rows, in steps of a whole tile."""
    programs = down * -(-product.width // _columns(tiles, half)) * shares
    turns = -(-programs // product.processors)
    steps = -(-product.vocabulary // (tiles.block_h * shares))
    step, share = (NARROW, SHARE / 2) if half else (1.0, SHARE)
    return turns * (steps * step + TURN) + share * programs
