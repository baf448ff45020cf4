"""Compile every kernel for every chip, without a GPU, and write what each takes: registers, spills, shared memory.

    .venv/bin/python benchmarks/kernels/resources.py [--chips 80 90] [--out FILE]

The kernels' own launches run, on tensors without storage and with a driver that compiles as the real one would and,
where that would load the code and start it, reads the code's needs. A kernel that asks for more shared memory than the
chip has is refused by Triton itself, as on the chip.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from grpo_kernels import LossRule, fused_linear, fused_loss
from grpo_kernels.tiles import tiles_for
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""Of one block at most (CUDA C++ Programming Guide, technical specifications per compute capability)."""
PROCESSORS = {80: 108, 86: 82, 89: 142, 90: 132, 100: 148, 120: 170}
"""Of an A100, RTX 3090, L40S, H100, B200 and RTX 5090."""
SHAPES = ((576, 49152), (5120, 151936))
"""Hidden size and vocabulary: of SmolLM2-135M, and of Qwen3-32B."""
DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Card:
    """Triton's driver, without a card: it compiles for ``arch`` and keeps what each kernel needs."""

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.found: dict[str, dict[str, int]] = {}
        self.label = ""
        self.utils = SimpleNamespace(load_binary=self.read, get_device_properties=self.properties)
        self.launcher_cls = lambda source, metadata: lambda *_, **__: None

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_KIB[self.arch] * 1024}

    def read(self, name: str, code: bytes, shared: int, device: int) -> tuple[None, None, int, int, int]:
        """In the place of loading: the numbers cuobjdump reads off the code."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(code)
            file.flush()
            text = subprocess.run([DUMP, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
        numbers = {key: int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("REG", "STACK", "LOCAL")}  # type: ignore[index]
        needs = {"registers": numbers["REG"], "spilled": numbers["STACK"] + numbers["LOCAL"], "shared": shared}
        worst = self.found.setdefault(f"{name}{self.label}", needs)
        self.found[f"{name}{self.label}"] = {key: max(worst[key], needs[key]) for key in needs}
        return None, None, numbers["REG"], 0, 1024


def compiled(arch: int) -> dict[str, dict[str, int]]:
    """Every kernel in every variant, of each the worst over the shapes."""
    card = Card(arch)
    driver.set_active(card)
    tiles = lambda head: tiles_for((arch // 10, arch % 10), head.element_size())  # noqa: E731
    processors = lambda head: PROCESSORS[arch]  # noqa: E731
    with torch.device("meta"), mock.patch.multiple(fused_linear, _tiles=tiles, _processors=processors):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            card.label = f" {dtype}".replace("torch.", "")
            for width, vocabulary in SHAPES:
                for rows in (256, 77):
                    linear(rows, width, vocabulary, dtype)
        for form in fused_loss.FORMS:
            card.label = f" {form}"
            fused_loss.group_advantages(torch.empty(64), torch.empty(9, dtype=torch.int64), form)
        for kind in fused_loss.KINDS:
            for estimator in fused_loss.ESTIMATORS:
                card.label = f" {kind} {estimator or 'no KL'}"
                loss(kind, estimator)
    return card.found


def linear(rows: int, width: int, vocabulary: int, dtype: torch.dtype) -> None:
    """All launches of fused_linear.py."""
    hidden, head = torch.empty(rows, width, dtype=dtype), torch.empty(vocabulary, width, dtype=dtype)
    targets, ones = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
    for rounded in (False, True):
        fused_linear.target_logit(hidden, head, targets, ones, rounded)
        sums = fused_linear.anchored_sums(hidden, head, targets, ones, ones, ones, rounded)
        fused_linear.close(head, targets, ones, ones, sums, (ones, ones, hidden))
        fused_linear.linear_logp(hidden, head, targets, ones, rounded)


def loss(kind: str, estimator: str | None) -> None:
    """One variant of the policy loss."""
    tokens, sequences = torch.empty(100), torch.empty(4)
    rule = LossRule(kind=kind, clip_low=0.2, clip_high=0.28, importance_cap=2.0, kl_estimator=estimator or "k3")
    reference = tokens if estimator else None
    offsets = torch.empty(5, dtype=torch.int64)
    fused_loss.policy_loss(tokens, tokens, tokens, reference, sequences, sequences, offsets, rule)


def main() -> None:
    """One entry a chip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, nargs="+", default=list(SHARED_KIB))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "resources.json")
    given = parser.parse_args()
    table: dict[str, Any] = {"triton": triton.__version__, "chips": {}}
    for arch in given.chips:
        table["chips"][f"sm_{arch}"] = compiled(arch)
        print(f"sm_{arch}: {len(table['chips'][f'sm_{arch}'])} kernels", flush=True)
    given.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
