"""The start-up proof of kernels: right ones pass, fused ones in Triton's interpreter; each planted fault is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from grpo_kernels import PLAIN, Kernels, choose

from grpo import kernel_proof, samplers
from grpo.config import load
from grpo.display import Display
from grpo.errors import SetupError
from grpo.kernel_proof import prove_kernels
from grpo.policy import Policy
from grpo.resources import open_resources


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_proof, "ROWS", 24)
    monkeypatch.setattr(kernel_proof, "COLUMNS", 201)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_right_ones_pass(fused: Kernels, dtype: torch.dtype) -> None:
    found = prove_kernels(fused, torch.randn(300, 40, generator=torch.Generator().manual_seed(1)).to(dtype))
    assert found.logp < 2e-5
    assert found.gradient < {torch.float32: 1e-5, torch.bfloat16: 4e-3}[dtype]


def test_compiled_ones_pass() -> None:
    compiled = choose("auto", torch.device("cpu"), compiled=True)
    found = prove_kernels(compiled, torch.randn(300, 40, generator=torch.Generator().manual_seed(1)).bfloat16())
    assert found.logp < 2e-5
    assert found.gradient < 4e-3


@pytest.mark.parametrize("field", ["rest", "stored", "others"])
def test_a_wrong_sum_is_refused(field: str) -> None:
    def wrong(*inputs: torch.Tensor):
        sums = PLAIN.anchored_sums(*inputs)
        return sums._replace(**{field: getattr(sums, field) * 1.1})

    with pytest.raises(SetupError, match=r"fused kernels are wrong on this cpu.*update\.kernels = plain"):
        prove_kernels(replace(PLAIN, name="fused", anchored_sums=wrong), torch.randn(300, 40))


def test_no_number_is_refused() -> None:
    def wrong(*inputs: torch.Tensor):
        return PLAIN.anchored_sums(*inputs)._replace(rest=inputs[3] * torch.nan)

    with pytest.raises(SetupError, match=r"compiled kernels.*nan.*update\.compile = false"):
        prove_kernels(replace(PLAIN, name="compiled", anchored_sums=wrong), torch.randn(300, 40))


def test_the_choice_is_explicit() -> None:
    cpu = torch.device("cpu")
    assert choose("auto", cpu) is PLAIN
    assert choose("plain", torch.device("cuda"), compiled=True) is PLAIN
    assert choose("auto", cpu, compiled=True).name == choose("plain", cpu, compiled=True).name == "compiled"
    with pytest.raises(RuntimeError, match="run on CUDA"):
        choose("fused", cpu)


@pytest.mark.parametrize("name", ["plain", "compiled"])
def test_a_run_starts_with_the_proof_of_what_is_not_plain(
    tiny_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def loaded(*given: Any) -> Policy:
        policy = samplers.load_policy(*given)
        policy.kernels = replace(PLAIN, name=name)
        return policy

    monkeypatch.setattr("grpo.resources.load_policy", loaded)
    with open_resources(load(tiny_run("x")), Accelerator(cpu=True), Display(quiet=True)):
        pass
    events = [json.loads(line)["event"] for line in (tmp_path / "x" / "events.jsonl").read_text().splitlines()]
    assert ("kernels_proved" in events) == (name == "compiled")
