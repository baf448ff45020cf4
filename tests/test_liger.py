"""From hidden states to loss and back, against Liger 0.8.5's fused linear GRPO loss.

Liger computes in fp32, padded, and its logits twice; ours is packed and anchored at the sampler's log-probabilities.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from grpo_kernels import PLAIN, Kernels, linear_logp_jac

from grpo.advantages import token_weight
from grpo.loss import rule_of
from grpo.sections import Update

from conftest import ROOT

KINDS = ("grpo", "dapo", "dr_grpo", "gspo", "cispo")
LENGTHS, MAX_TOKENS, TEMPERATURE = (7, 3, 8, 1, 5, 6), 8, 0.8
SETTINGS = Update(kl_coef=0.05, importance_cap=1.5)


def drawn() -> dict[str, Any]:
    """Packed: policies within a factor of e of each other, a sampler so far off that importance weights are cut."""
    g = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    hidden, head = torch.randn(total, 16, generator=g), torch.randn(50, 16, generator=g)
    targets = torch.randint(0, 50, (total,), generator=g)
    exact = (hidden.double() @ head.double().T / TEMPERATURE).log_softmax(1).gather(1, targets[:, None])[:, 0].float()
    near = lambda value, spread: value + spread * torch.randn(total, generator=g)  # noqa: E731
    old = near(exact, 0.3)
    found = {"hidden": hidden, "head": head, "targets": targets, "old": old}
    found |= {"sampler": near(old, 0.8), "reference": near(old, 0.3), "advantages": torch.randn(6, generator=g)}
    assert 3 < int(((old - found["sampler"]).exp() > SETTINGS.importance_cap).sum()) < total - 3
    assert 3 < int(((exact - old).exp() > 1 + SETTINGS.clip_high).sum()) < total - 3
    return found


def padded(packed: torch.Tensor) -> list[Any]:
    """[B][MAX_TOKENS], with zeros at the end of each."""
    rows = torch.zeros(len(LENGTHS), MAX_TOKENS, *packed.shape[1:], dtype=packed.dtype)
    for row, part in zip(rows, packed.split(LENGTHS), strict=True):
        row[: len(part)] = part
    return rows.tolist()


@pytest.fixture(scope="module")
def from_liger() -> dict[str, Any]:
    """Loss and gradient for every kind."""
    if not (ROOT / ".cache" / "clients" / "liger" / "ready").exists():
        pytest.skip("`make clients` brings Liger")
    given = drawn()
    case = {name: padded(given[name]) for name in ("hidden", "old", "sampler", "reference")}
    case |= {"tokens": padded(given["targets"]), "mask": padded(torch.ones(sum(LENGTHS)))}
    case |= {"head": given["head"].tolist(), "advantages": given["advantages"].tolist(), "temperature": TEMPERATURE}
    case["settings"] = SETTINGS.model_dump() | {"max_tokens": MAX_TOKENS}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests" / "clients" / "liger_loss.py")],
        input=json.dumps([case | {"kind": kind} for kind in KINDS]),
        env=os.environ | {"PYTHONPATH": str(ROOT / ".cache" / "clients" / "liger")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(KINDS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("form", ["plain", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_liger_computes_the_same(
    from_liger: dict[str, Any], kind: str, form: str, request: pytest.FixtureRequest
) -> None:
    """To the rounding of fp32: a gradient of sums over 50 columns, some of them cancelling."""
    kernels = PLAIN if form == "plain" else request.getfixturevalue("fused")
    loss, gradient = ours(kernels, kind)
    expected = from_liger[kind]
    assert loss == pytest.approx(expected["loss"], rel=1e-5)
    torch.testing.assert_close(torch.tensor(padded(gradient)), torch.tensor(expected["gradient"]), atol=1e-6, rtol=1e-4)


def ours(kernels: Kernels, kind: str) -> tuple[float, torch.Tensor]:
    """Loss, and gradient of the hidden states."""
    given = drawn()
    hidden = given["hidden"].requires_grad_()
    logp, _ = linear_logp_jac(hidden, given["head"], given["targets"], TEMPERATURE, given["sampler"], kernels)
    sums = kernels.policy_loss(
        logp,
        given["old"],
        given["sampler"],
        given["reference"],
        given["advantages"],
        torch.tensor([token_weight(kind, n, LENGTHS, MAX_TOKENS) for n in LENGTHS]),
        torch.tensor([0, *LENGTHS]).cumsum(0),
        rule_of(SETTINGS.model_copy(update={"loss": kind})),
    )
    sums.loss.backward()
    assert hidden.grad is not None
    return float(sums.loss.detach()), hidden.grad
