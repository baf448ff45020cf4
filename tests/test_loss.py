"""The policy losses: tables by hand, gradients in float64, and TRL's own implementation on the same tensors."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from grpo_kernels import PLAIN, LossSums
from grpo_kernels.plain_loss import sequence_mean

from grpo.advantages import token_weight
from grpo.loss import rule_of
from grpo.sections import Update

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("grpo", "dapo", "dr_grpo", "gspo", "cispo")
MAX_TOKENS = 4


def policy_loss(inputs: dict[str, Any], settings: Update) -> LossSums:
    """The specification itself; the Triton form is held against it in test_kernels_loss.py."""
    return PLAIN.policy_loss(**inputs, rule=rule_of(settings))


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ragged(rows: list[list[float]]) -> torch.Tensor:
    return tensor([value for row in rows for value in row])


def loss_of(
    ratios: list[list[float]],
    advantages: list[float],
    settings: Update,
    *,
    sampler_ratio: float = 1.0,
    away: Any = None,
) -> tuple[LossSums, list[float]]:
    """Sums and gradient for sequences given by their tokens' ratios to the old policy, whose logprobs are 0."""
    lengths = [len(row) for row in ratios]
    logprobs = ragged([[math.log(r) for r in row] for row in ratios]).requires_grad_()
    zeros = torch.zeros_like(logprobs)
    inputs = {
        "logprobs": logprobs,
        "old_logprobs": zeros,
        "sampler_logprobs": zeros - math.log(sampler_ratio),
        "reference_logprobs": None if away is None else logprobs.detach() + away,
        "advantages": tensor(advantages),
        "weights": tensor([token_weight(settings.loss, n, lengths, MAX_TOKENS) for n in lengths]),
        "offsets": torch.tensor([0, *lengths]).cumsum(0),
    }
    sums = policy_loss(inputs, settings)
    (gradient,) = torch.autograd.grad(sums.loss, logprobs)
    return sums, gradient.tolist()


# ratio, advantage -> loss, d loss / d logp (= -ratio * A where not clipped), by hand
ONE_TOKEN = [
    (1.0, 1.5, -1.5, -1.5),
    (1.1, 2.0, -2.2, -2.2),
    (1.5, 1.0, -1.28, 0.0),  # above 1 + clip_high with A > 0: held
    (0.5, 1.0, -0.5, -0.5),  # below the band with A > 0: min takes the free term
    (1.5, -1.0, 1.5, 1.5),  # above the band with A < 0: free
    (0.5, -1.0, 0.8, 0.0),  # below 1 - clip_low with A < 0: held
    (1.28, 1.0, -1.28, -1.28),  # exactly at the bound: both terms are equal
]


@pytest.mark.parametrize("kind", ["grpo", "dapo", "gspo"])
@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), ONE_TOKEN)
def test_one_token(kind: str, ratio: float, advantage: float, loss: float, gradient: float) -> None:
    """A sequence of one token is its own mean, so all kinds with a clip agree."""
    sums, (slope,) = loss_of([[ratio]], [advantage], Update(loss=kind))
    assert sums.loss.item() == pytest.approx(loss, abs=1e-12)
    if ratio != 1.28:  # at the kink the derivative is any value between its two sides
        assert slope == pytest.approx(gradient, abs=1e-12)
        assert sums.clipped.item() == (gradient == 0.0)


# Sequence a: ratios 1.1 and 1.5, A = 1: token losses -1.1 and -1.28 (held). Sequence b: ratio 0.5, A = -1: 0.8 (held).
# gspo: a's ratio is sqrt(1.1 * 1.5) = 1.2845, held at 1.28.
# cispo: weights 1.1, 1.28 (capped), 0.5; times -A * log ratio.
L11, L15, L05 = math.log(1.1), math.log(1.5), math.log(0.5)
BY_KIND = {
    "dapo": ((-1.1 - 1.28 + 0.8) / 3, [-1.1 / 3, 0.0, 0.0], 2),
    "grpo": ((-1.1 - 1.28) / 4 + 0.8 / 2, [-1.1 / 4, 0.0, 0.0], 2),
    "dr_grpo": ((-1.1 - 1.28 + 0.8) / 8, [-1.1 / 8, 0.0, 0.0], 2),
    "gspo": (-1.28 / 2 + 0.8 / 2, [0.0, 0.0, 0.0], 3),
    "cispo": ((-1.1 * L11 - 1.28 * L15 + 0.5 * L05) / 3, [-1.1 / 3, -1.28 / 3, 0.5 / 3], 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_sequences(kind: str) -> None:
    loss, gradient, clipped = BY_KIND[kind]
    sums, slopes = loss_of([[1.1, 1.5], [0.5]], [1.0, -1.0], Update(loss=kind))
    assert sums.loss.item() == pytest.approx(loss, abs=1e-12)
    assert slopes == pytest.approx(gradient, abs=1e-12)
    assert sums.clipped.item() == clipped


def test_gspo_shares_its_gradient_among_the_tokens() -> None:
    """s = sqrt(1.1 * 1.2); each of two tokens counts 1/2, and ds/dlogp = s / 2: -(1/2 + 1/2) * s / 2 for each."""
    sums, slopes = loss_of([[1.1, 1.2]], [1.0], Update(loss="gspo"))
    s = math.sqrt(1.32)
    assert sums.loss.item() == pytest.approx(-s, abs=1e-12)
    assert slopes == pytest.approx([-s / 2, -s / 2], abs=1e-12)


def test_sequence_mean_by_hand() -> None:
    assert sequence_mean(tensor([1.0, 3.0, 5.0]), torch.tensor([0, 2, 2, 3])).tolist() == [2.0, 2.0, 5.0]
    assert sequence_mean(tensor([]), torch.tensor([0])).tolist() == []


@pytest.mark.parametrize(("sampler_ratio", "weight"), [(1.5, 1.5), (9.0, 2.0), (0.5, 0.5)])
@pytest.mark.parametrize("kind", KINDS)
def test_importance_weight_scales_and_is_capped(kind: str, sampler_ratio: float, weight: float) -> None:
    settings = Update(loss=kind)
    plain, plain_slopes = loss_of([[1.1, 1.2], [0.9]], [1.0, -1.0], settings)
    scaled, slopes = loss_of([[1.1, 1.2], [0.9]], [1.0, -1.0], settings, sampler_ratio=sampler_ratio)
    assert scaled.loss.item() == pytest.approx(weight * plain.loss.item(), abs=1e-12)
    assert slopes == pytest.approx([weight * slope for slope in plain_slopes], abs=1e-12)


# away = reference - logp = 0.5
KL = {
    "k1": (-0.5, -0.5),  # value -away; gradient k1 * 1
    "k2": (0.125, -0.5),  # away^2 / 2; gradient -away
    "k3": (math.exp(0.5) - 1.5, 1 - math.exp(0.5)),  # e^away - away - 1; gradient 1 - e^away
}


@pytest.mark.parametrize("estimator", KL)
def test_kl_by_hand(estimator: str) -> None:
    value, gradient = KL[estimator]
    sums, (slope,) = loss_of([[1.0]], [0.0], Update(kl_coef=0.1, kl_estimator=estimator), away=0.5)
    assert sums.loss.item() == pytest.approx(0.1 * value, abs=1e-12)
    assert slope == pytest.approx(0.1 * gradient, abs=1e-12)
    assert sums.kl.item() == pytest.approx(KL["k3"][0], abs=1e-12)


def test_kl_gradients_are_those_of_the_divergence() -> None:
    """On two outcomes the expectation of every estimator's gradient is the derivative of KL(p || q), in float64."""
    logits, reference = tensor([0.3, -0.2]).requires_grad_(), tensor([-0.4, 0.1]).log_softmax(0)
    policy = logits.log_softmax(0)
    divergence = (policy.exp() * (policy - reference)).sum()
    (expected,) = torch.autograd.grad(divergence, logits)
    for estimator, tolerance in (("k1", 1e-12), ("k2", 1e-12)):
        total = torch.zeros(2, dtype=torch.float64)
        for outcome in range(2):
            logp = logits.log_softmax(0)[outcome : outcome + 1]
            one = torch.ones(1, dtype=torch.float64)
            inputs = {
                "logprobs": logp,
                "old_logprobs": logp.detach(),
                "sampler_logprobs": logp.detach(),
                "reference_logprobs": reference[outcome : outcome + 1],
                "advantages": 0 * one,
                "weights": one,
                "offsets": torch.tensor([0, 1]),
            }
            loss = policy_loss(inputs, Update(kl_coef=1.0, kl_estimator=estimator)).loss
            total += logp.exp().item() * torch.autograd.grad(loss, logits)[0]
        assert total.tolist() == pytest.approx(expected.tolist(), abs=tolerance)


def test_gap_metrics() -> None:
    zeros = torch.zeros(2)
    inputs = {
        "logprobs": zeros,
        "old_logprobs": zeros,
        "sampler_logprobs": tensor([0.1, -0.3]),
        "reference_logprobs": None,
        "advantages": torch.ones(1),
        "weights": torch.ones(1),
        "offsets": torch.tensor([0, 2]),
    }
    sums = policy_loss(inputs, Update())
    assert sums.gap.item() == pytest.approx(0.4, abs=1e-12)
    assert sums.gap_max.item() == pytest.approx(0.3, abs=1e-12)


def random_inputs(rows: int = 6) -> dict[str, Any]:
    """Ragged sequences within a factor of e of the old policy, which brings some to either side of the clip."""
    generator = torch.Generator().manual_seed(0)
    lengths = [int(n) for n in torch.randint(1, MAX_TOKENS + 1, (rows,), generator=generator)]
    total = sum(lengths)
    draw = lambda scale: scale * torch.randn(total, generator=generator, dtype=torch.float64)  # noqa: E731
    old = -2 + draw(0.5)
    return {
        "lengths": lengths,
        "old": old,
        "logprobs": old + draw(0.3),
        "sampler": old + draw(0.2),
        "reference": old + draw(0.3),
        "advantages": torch.randn(rows, generator=generator, dtype=torch.float64),
    }


def inputs_of(drawn: dict[str, Any], kind: str, logprobs: torch.Tensor) -> dict[str, Any]:
    return {
        "logprobs": logprobs,
        "old_logprobs": drawn["old"],
        "sampler_logprobs": drawn["sampler"],
        "reference_logprobs": drawn["reference"],
        "advantages": drawn["advantages"],
        "weights": tensor([token_weight(kind, n, drawn["lengths"], MAX_TOKENS) for n in drawn["lengths"]]),
        "offsets": torch.tensor([0, *drawn["lengths"]]).cumsum(0),
    }


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo", "gspo"])
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_gradient_float64(kind: str, estimator: str) -> None:
    """cispo and k1 have no loss whose derivative is their gradient: theirs is tabled by hand above."""
    drawn = random_inputs()
    settings = Update(loss=kind, kl_coef=0.05, kl_estimator=estimator)
    function = lambda logp: policy_loss(inputs_of(drawn, kind, logp), settings).loss  # noqa: E731
    assert torch.autograd.gradcheck(function, (drawn["logprobs"].requires_grad_(),))


@pytest.fixture(scope="module")
def from_trl() -> dict[str, Any]:
    """Loss and gradient by TRL's trainer for every kind; ours is ragged, TRL's padded."""
    if not (ROOT / ".cache" / "clients" / "trl" / "ready").exists():
        pytest.skip("`make clients` brings TRL")
    drawn = random_inputs()
    case = {name: padded(drawn[name].tolist(), drawn) for name in ("logprobs", "old", "sampler", "reference")}
    case |= {"mask": padded([1.0] * sum(drawn["lengths"]), drawn), "advantages": drawn["advantages"].tolist()}
    case["settings"] = Update(kl_coef=0.05).model_dump() | {"max_tokens": MAX_TOKENS}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests" / "clients" / "trl_loss.py")],
        input=json.dumps([case | {"kind": kind} for kind in KINDS]),
        env=os.environ | {"PYTHONPATH": str(ROOT / ".cache" / "clients" / "trl")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(KINDS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_trl_computes_the_same(from_trl: dict[str, Any], kind: str) -> None:
    """To rounding, in float64."""
    drawn = random_inputs()
    logprobs = drawn["logprobs"].requires_grad_()
    sums = policy_loss(inputs_of(drawn, kind, logprobs), Update(loss=kind, kl_coef=0.05))
    (gradient,) = torch.autograd.grad(sums.loss, logprobs)
    assert sums.loss.item() == pytest.approx(from_trl[kind]["loss"], rel=1e-12)
    for ours, theirs in zip(padded(gradient.tolist(), drawn), from_trl[kind]["gradient"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-12)


def padded(values: list[float], drawn: dict[str, Any]) -> list[list[float]]:
    """[B][MAX_TOKENS]"""
    rest = iter(values)
    return [[next(rest) if i < n else 0.0 for i in range(MAX_TOKENS)] for n in drawn["lengths"]]
