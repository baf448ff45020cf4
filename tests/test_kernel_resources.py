"""Every kernel compiled for real chips through its own launch: no spills, no more resources than the table says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from grpo_kernels.tiles import shares_of, tiles_for

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
    ("rows", "width", "block", "shares"),
    [
        (768, 1024, 256, 5),  # 6 x 4 tiles of 256 in 5 shares are 120 programs for 132 processors; of 128, 96
        (768, 5120, 256, 1),  # 6 x 20; those of 128 take two turns that are as full
        (768, 2560, 128, 1),  # 6 x 20; as many of 256 need two shares
        (2688, 576, 128, 1),  # 21 x 5, a tenth of them outside; of 256 a quarter
        (128, 64, 128, 132),  # one tile
    ],
)
def test_shares_fill_an_h100(rows: int, width: int, block: int, shares: int) -> None:
    """Counted by hand."""
    assert shares_of(rows, width, tiles_for((9, 0), 2), 132) == (block, shares)
