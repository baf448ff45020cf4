"""Every kernel compiled for real chips through its own launch: no spills, no more resources than the table says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from grpo_kernels.tiles import Product, shares_of, tiles_for

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "kernels"
TABLE = json.loads((FOLDER / "resources.json").read_text())
CHIPS = [int(name.removeprefix("sm_")) for name in TABLE["chips"]]


@pytest.mark.parametrize(
    "chip", [chip if chip in (86, 90) else pytest.param(chip, marks=pytest.mark.slow) for chip in CHIPS]
)
def test_no_kernel_got_worse(chip: int, tmp_path: Path) -> None:
    out = tmp_path / "resources.json"
    words = [sys.executable, str(FOLDER / "resources.py"), "--chips", str(chip), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # Triton refuses what does not fit into the chip's shared memory
    found = json.loads(out.read_text())
    assert found["triton"] == TABLE["triton"]
    kernels, table = found["chips"][f"sm_{chip}"], TABLE["chips"][f"sm_{chip}"]
    assert kernels.keys() == table.keys()
    for name, needs in kernels.items():
        assert needs["spilled"] == 0, name
        assert all(needs[key] <= table[name][key] for key in needs), (name, needs, table[name])


def test_the_table_is_of_the_triton_that_a_gpu_gets() -> None:
    project = (FOLDER.parent.parent / "pyproject.toml").read_text()
    assert f'"triton=={TABLE["triton"]}"' in project
    assert set(CHIPS) == {80, 86, 89, 90, 100, 120}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("chip", CHIPS)
def test_stages_fit_into_shared_memory(chip: int, size: int) -> None:
    """By hand: two operands a stage; 99 KiB on sm_86, sm_89 and sm_120."""
    tiles = tiles_for((chip // 10, chip % 10), size)
    room = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}[chip] * 1024
    assert (tiles.block_t + tiles.block_v) * tiles.block_h * size * tiles.stages <= room


@pytest.mark.parametrize(
    ("rows", "vocabulary", "width", "block", "shares"),
    [
        (128, 132 * 64, 256, 128, 12),  # 2 tiles: a turn of 11 half steps and a start, 21.9; 1 of 256: 12 steps, 26.6
        (768, 151936, 2560, 256, 11),  # 660 programs are five full turns of 216 steps, 1188; 2 shares: 1208, not full
        (2048, 49152, 1024, 256, 2),  # 128 programs, one turn of 384 steps
        (768, 151936, 5120, 256, 6),  # full: 2,502 against 2,395 in one; but of 4 tiles of rows 1,668 against 2,393
    ],
)
def test_shares_fill_an_h200(rows: int, vocabulary: int, width: int, block: int, shares: int) -> None:
    """Counted by hand."""
    product = Product(rows=rows, vocabulary=vocabulary, width=width, processors=132)
    assert shares_of(product, tiles_for((9, 0), 2)) == (block, shares)
