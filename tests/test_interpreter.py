"""What the kernels' tests rely on: traps of the interpreter are there, and each guard notices what it is for."""

import os

import pytest
import torch
from interpreter import OWN_CAST, OWN_DOT, Guard, InterpreterBuilder, guarded, right_bf16, shuffled

os.environ["TRITON_INTERPRET"] = "1"
import triton
import triton.language as tl


@triton.jit
def product(a, b, out, N: tl.constexpr):
    i = tl.arange(0, N)
    place = i[:, None] * N + i[None, :]
    tl.store(out + place, tl.dot(tl.load(a + place), tl.load(b + place)))


@triton.jit
def copy(source, out, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(source + i).to(out.dtype.element_ty), mask=i < count)


@triton.jit
def running_sum(source, out):
    """Right only if programs run in order."""
    i = tl.program_id(0)
    before = tl.load(out + i - 1) if i > 0 else 0.0
    tl.store(out + i, before + tl.load(source + i))


del os.environ["TRITON_INTERPRET"]


def test_bf16_products_need_mending(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, out = torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16(), torch.zeros(16, 16)
    right = a.float() @ b.float()
    monkeypatch.setattr(InterpreterBuilder, "create_dot", OWN_DOT)
    product[(1,)](a, b, out, 16)
    assert not torch.allclose(out, right, atol=1.0), "the interpreter is right by itself now: right_bf16 can go"
    with right_bf16():
        product[(1,)](a, b, out, 16)
    torch.testing.assert_close(out, right, atol=1e-5, rtol=1e-5)


def test_bf16_casts_need_mending(monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = torch.randn(64, generator=torch.Generator().manual_seed(0)), torch.zeros(64, dtype=torch.bfloat16)
    monkeypatch.setattr(InterpreterBuilder, "cast_impl", OWN_CAST)
    copy[(1,)](source, out, 64, 64)
    assert not torch.equal(out, source.bfloat16()), "the interpreter rounds by itself now: right_bf16 can do less"
    with right_bf16():
        copy[(1,)](source, out, 64, 64)
    assert torch.equal(out, source.bfloat16())


def test_a_write_outside_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(count: int) -> None:
        with guarded(monkeypatch) as guard:
            copy[(2,)](guard.put(torch.zeros(128)), torch.empty(100), count, 64)

    run(100)
    with pytest.raises(AssertionError, match="outside"):
        run(101)


def test_what_is_never_written_is_no_number() -> None:
    assert bool(Guard().empty(3, 4).isnan().all())


def test_a_kernel_that_needs_an_order_is_noticed(fused) -> None:
    source, out = torch.ones(8), torch.zeros(8)
    running_sum[(8,)](source, out)
    assert out.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    with shuffled(0):
        out.zero_()
        running_sum[(8,)](source, out)
    assert out.tolist() != [1, 2, 3, 4, 5, 6, 7, 8]
