"""The clipped policy loss: a table by hand, gradients in float64."""

import math

import pytest
import torch

from grpo.loss import LossInputs, policy_loss

SETTINGS = {"clip_low": 0.2, "clip_high": 0.28, "importance_cap": 2.0, "kl_coef": 0.0}


def one(ratio: float, advantage: float, sampler_ratio: float = 1.0, **settings: float):
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    inputs = LossInputs(
        logprobs=logp,
        old_logprobs=zero,
        sampler_logprobs=torch.tensor([-math.log(sampler_ratio)], dtype=torch.float64),
        reference_logprobs=torch.tensor([settings.pop("reference")], dtype=torch.float64)
        if "reference" in settings
        else None,
        advantages=torch.tensor([advantage], dtype=torch.float64),
    )
    sums = policy_loss(inputs, **(SETTINGS | settings))
    sums.loss.backward()
    return sums, logp.grad.item()


# ratio, advantage -> loss, d loss / d logp (= -ratio * A where not clipped), by hand
TABLE = [
    (1.0, 1.5, -1.5, -1.5),
    (1.1, 2.0, -2.2, -2.2),
    (1.5, 1.0, -1.28, 0.0),  # above 1 + clip_high with A > 0: held
    (0.5, 1.0, -0.5, -0.5),  # below the band with A > 0: min takes the free term
    (1.5, -1.0, 1.5, 1.5),  # above the band with A < 0: free
    (0.5, -1.0, 0.8, 0.0),  # below 1 - clip_low with A < 0: held
    (1.28, 1.0, -1.28, -1.28),  # exactly at the bound: both terms are equal
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), TABLE)
def test_table(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    sums, slope = one(ratio, advantage)
    assert sums.loss.item() == pytest.approx(loss, abs=1e-12)
    if ratio != 1.28:  # at the kink the derivative is any value between its two sides
        assert slope == pytest.approx(gradient, abs=1e-12)
        assert sums.clipped.item() == (gradient == 0.0)


def test_importance_weight_scales_and_is_capped() -> None:
    assert one(1.0, 1.0, sampler_ratio=1.5)[0].loss.item() == pytest.approx(-1.5, abs=1e-12)
    assert one(1.0, 1.0, sampler_ratio=9.0)[0].loss.item() == pytest.approx(-2.0, abs=1e-12)
    assert one(1.0, 1.0, sampler_ratio=0.5)[0].loss.item() == pytest.approx(-0.5, abs=1e-12)


def test_kl_by_hand() -> None:
    # away = 0.5: e^0.5 - 0.5 - 1 = 0.14872127; d/dlogp = 1 - e^0.5
    sums, slope = one(1.0, 0.0, reference=0.5, kl_coef=0.1)
    assert sums.kl.item() == pytest.approx(math.exp(0.5) - 1.5, abs=1e-12)
    assert sums.loss.item() == pytest.approx(0.1 * (math.exp(0.5) - 1.5), abs=1e-12)
    assert slope == pytest.approx(0.1 * (1 - math.exp(0.5)), abs=1e-12)


def test_gap_metrics() -> None:
    inputs = LossInputs(
        logprobs=torch.zeros(2),
        old_logprobs=torch.zeros(2),
        sampler_logprobs=torch.tensor([0.1, -0.3], dtype=torch.float64),
        reference_logprobs=None,
        advantages=torch.ones(2),
    )
    sums = policy_loss(inputs, **SETTINGS)
    assert sums.gap.item() == pytest.approx(0.4, abs=1e-12)
    assert sums.gap_max.item() == pytest.approx(0.3, abs=1e-12)


def test_gradient_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(50, generator=generator, dtype=torch.float64)  # noqa: E731
    fixed = {"old_logprobs": draw(), "sampler_logprobs": draw(), "reference_logprobs": draw(), "advantages": draw()}

    def loss(logp: torch.Tensor) -> torch.Tensor:
        return policy_loss(LossInputs(logprobs=logp, **fixed), **(SETTINGS | {"kl_coef": 0.05})).loss

    assert torch.autograd.gradcheck(loss, (draw().requires_grad_(),))
