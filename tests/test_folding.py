"""Folded weights: on the grid of their dtype, one of its two neighbours each, and on average the sum."""

import pytest
import torch

from grpo.folding import fold

SHAPE = (400, 500)


def test_the_odds_are_those_of_the_place_between_two_neighbours() -> None:
    """By hand: bfloat16 has 7 bits of fraction, so that above 1 numbers are 2^-7 apart; a quarter of that is added."""
    weight = torch.ones(SHAPE, dtype=torch.bfloat16)
    for sign in (1, -1):
        folded = fold(sign * weight, torch.full(SHAPE, sign * 2.0**-9), 0).float()
        assert sorted({float(value) for value in folded.abs().unique()}) == [1.0, 1.0 + 2.0**-7]
        raised = float((folded.abs() > 1).float().mean())
        assert raised == pytest.approx(0.25, abs=0.03)  # 400 rows share their odds: deviation below 0.01
        assert not bool((folded * sign < 0).any())
        towards_zero = fold(sign * weight, torch.full(SHAPE, -sign * 2.0**-9), 0).float().abs()
        assert sorted({float(value) for value in towards_zero.unique()}) == [1.0 - 2.0**-8, 1.0]
        assert float((towards_zero < 1).float().mean()) == pytest.approx(0.5, abs=0.03)  # there they are 2^-8 apart


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_updates_survive(dtype: torch.dtype) -> None:
    """A hundredth of the grid's spacing, of which rounding to the nearest leaves nothing; the sum over all weights is
    that in float64."""
    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(SHAPE, generator=generator) * 0.05).to(dtype)
    delta = torch.full(SHAPE, 1e-2) * weight.float().abs() * torch.finfo(dtype).eps
    lost = (weight.float() + delta).to(dtype).double() - weight.double()
    assert float(lost.sum()) == 0.0
    kept = fold(weight, delta, 5).double() - weight.double()
    assert float(kept.sum()) == pytest.approx(float(delta.double().sum()), rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_nothing_added_is_nothing_changed(dtype: torch.dtype) -> None:
    weight = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)) * 3).to(dtype)
    weight[0, :4] = torch.tensor([0.0, -0.0, torch.finfo(dtype).max, -torch.finfo(dtype).max])
    assert torch.equal(fold(weight, torch.zeros(SHAPE), 0), weight)


def test_float32_is_the_sum() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, delta = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
    assert torch.equal(fold(weight, delta, 0), weight + delta)


def test_the_same_again_and_other_odds_for_another_matrix() -> None:
    weight = torch.ones(SHAPE, dtype=torch.bfloat16)
    delta = torch.full(SHAPE, 2.0**-8)
    first = fold(weight, delta, 0)
    assert torch.equal(fold(weight, delta, 0), first)
    assert 0.4 < float((fold(weight, delta, 1) == first).float().mean()) < 0.6
    more = fold(weight, delta * 1.5, 0)
    assert bool((more >= first).all()), "a weight that grew goes no lower"
