"""The start-up proof of the fused kernels: right ones pass in Triton's interpreter, each planted fault is refused."""

from dataclasses import replace

import pytest
import torch
from grpo_kernels import PLAIN, Kernels, choose

from grpo import kernel_proof
from grpo.errors import SetupError
from grpo.kernel_proof import prove_kernels


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_proof, "ROWS", 24)
    monkeypatch.setattr(kernel_proof, "COLUMNS", 201)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_right_ones_pass(fused: Kernels, dtype: torch.dtype) -> None:
    found = prove_kernels(fused, torch.randn(300, 40, generator=torch.Generator().manual_seed(1)).to(dtype))
    assert found.logp < 2e-5
    assert found.gradient < {torch.float32: 1e-5, torch.bfloat16: 4e-3}[dtype]


@pytest.mark.parametrize("field", ["rest", "stored", "others"])
def test_a_wrong_sum_is_refused(field: str) -> None:
    def wrong(*inputs: torch.Tensor):
        sums = PLAIN.anchored_sums(*inputs)
        return sums._replace(**{field: getattr(sums, field) * 1.1})

    with pytest.raises(SetupError, match=r"wrong on this card.*update\.kernels = plain"):
        prove_kernels(replace(PLAIN, anchored_sums=wrong), torch.randn(300, 40))


def test_no_number_is_refused() -> None:
    def wrong(*inputs: torch.Tensor):
        return PLAIN.anchored_sums(*inputs)._replace(rest=inputs[3] * torch.nan)

    with pytest.raises(SetupError, match="nan"):
        prove_kernels(replace(PLAIN, anchored_sums=wrong), torch.randn(300, 40))


def test_the_choice_is_explicit() -> None:
    cpu = torch.device("cpu")
    assert choose("auto", cpu) is PLAIN
    assert choose("plain", torch.device("cuda")) is PLAIN
    with pytest.raises(RuntimeError, match="run on CUDA"):
        choose("fused", cpu)
