"""Triton kernels on a CPU, in Triton's interpreter, with what it hides made visible.

The interpreter runs one program after the other, in order, on memory that is mostly zero: here programs run in any
order, outputs start as NaN, and all tensors lie between bands that nobody may touch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from grpo_kernels import Kernels
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

BAND = 4096
"""Numbers on each side of a guarded tensor."""
OWN_DOT, OWN_CAST = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl


def interpreted_kernels() -> Kernels:
    """The Triton form, to be called with tensors on the CPU; conftest.py imported Triton itself for it."""
    os.environ["TRITON_INTERPRET"] = "1"
    from grpo_kernels.fused import FUSED

    del os.environ["TRITON_INTERPRET"]
    return FUSED


@contextmanager
def right_bf16() -> Iterator[None]:
    """Mend what the interpreter does to bf16 without a word (3.7.1): products of raw uint16, and casts that cut off."""
    own = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl
    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = _dot, _cast
    try:
        yield
    finally:
        InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = own


def _dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    """In float64: BLAS in float32 rounds a row by its place in the tile on some processors, which no card does."""
    product = np.matmul(_numbers(a), _numbers(b)) + d.data
    return TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)


def _cast(self, source, kind):
    """To the nearest bf16 number, ties to even, as a card rounds."""
    if source.dtype.scalar.name != "fp32" or kind.scalar.name != "bf16":
        return OWN_CAST(self, source, kind)
    rounded = torch.from_numpy(np.array(source.data, dtype=np.float32)).bfloat16().view(torch.int16).numpy()
    return TensorHandle(rounded.view(np.uint16), kind.scalar)


def _numbers(handle) -> np.ndarray:
    if handle.dtype.scalar.name != "bf16":
        return handle.data.astype(np.float64)
    return (handle.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Programs run in a random order instead of from 0 upwards."""
    place = InterpreterBuilder.set_grid_idx

    def elsewhere(self, x: int, y: int, z: int) -> None:
        order = np.random.default_rng(seed).permutation(self.grid_dim[0])
        place(self, int(order[x]), y, z)

    InterpreterBuilder.set_grid_idx = elsewhere
    try:
        yield
    finally:
        InterpreterBuilder.set_grid_idx = place


class Guard:
    """Memory with bands around every tensor; NaN where nothing was written yet."""

    def __init__(self) -> None:
        self.buffers: list[torch.Tensor] = []

    def empty(
        self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> torch.Tensor:
        count = int(np.prod(shape))
        poison = float("nan") if dtype.is_floating_point else 77
        buffer = torch.full((count + 2 * BAND,), poison, dtype=dtype, device=device)
        self.buffers.append(buffer)
        return buffer[BAND : BAND + count].view(shape)

    def empty_like(self, other: torch.Tensor) -> torch.Tensor:
        return self.empty(*other.shape, dtype=other.dtype, device=other.device)

    def put(self, value: torch.Tensor) -> torch.Tensor:
        """The same numbers between bands."""
        return self.empty_like(value).copy_(value)

    def check(self) -> None:
        for buffer in self.buffers:
            for band in (buffer[:BAND], buffer[-BAND:]):
                untouched = band.isnan() if band.is_floating_point() else band == 77
                assert bool(untouched.all()), "something was written outside of a tensor"


@contextmanager
def guarded(monkeypatch) -> Iterator[Guard]:
    """Within it ``torch.empty`` and ``empty_like`` give guarded memory; the bands are checked at the end."""
    guard = Guard()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", guard.empty)
        patch.setattr(torch, "empty_like", guard.empty_like)
        yield guard
    guard.check()
