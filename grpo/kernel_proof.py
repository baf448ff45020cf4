"""Proof that fused or compiled kernels compute on this machine what their specification says. Touches: GPU.

With a piece of the run's own head, before the run: a compiler, a driver or a card that gets them wrong ends it here.
"""

from dataclasses import dataclass

import torch
from grpo_kernels import PLAIN, Kernels, linear_logp_jac
from torch import Tensor

from grpo.errors import SetupError

ROWS, COLUMNS = 192, 4001
"""Tokens and vocabulary of the trial: no multiple of a tile's."""
REMEDY = {"fused": "update.kernels = plain", "compiled": "update.compile = false"}
WORST_LOGP, WORST_ROW = 1e-3, 2e-2
"""In nats, and relative to a row of the gradient: a hundred and five times what was seen of 16-bit numbers."""


@dataclass(frozen=True, slots=True)
class KernelError:
    """Largest differences between a form and plain torch in fp32 on the same numbers."""

    logp: float
    gradient: float
    """Of a row, relative to its norm."""


def prove_kernels(kernels: Kernels, head: Tensor) -> KernelError:
    """Compare them on random hidden states. Raises SetupError where they differ by more than rounding."""
    g = torch.Generator().manual_seed(0)
    part = head.detach()[:COLUMNS].contiguous()
    scale = 4.0 / float(part.float().square().sum(1).mean().sqrt())  # logits of a model that has learned
    hidden = (torch.randn(ROWS, part.shape[1], generator=g) * scale).to(part.device, part.dtype)
    targets = torch.randint(0, len(part), (ROWS,), generator=g).to(part.device)
    right, expected = _answer(PLAIN, hidden.float(), part.float(), targets, None)
    off = torch.linspace(-60.0, 60.0, ROWS, device=part.device)  # most anchors so far off that rows are done again
    logp, gradient = _answer(kernels, hidden, part, targets, right + off)
    rows = (gradient.float() - expected).norm(dim=1) / expected.norm(dim=1)
    found = KernelError(float((logp - right).abs().max()), float(rows.max()))
    if not (found.logp <= WORST_LOGP and found.gradient <= WORST_ROW):
        raise SetupError(
            f"the {kernels.name} kernels are wrong on this {part.device.type}: log-probabilities by {found.logp:.2g} "
            f"nats, gradients by {found.gradient:.2g} of a row. Train with {REMEDY[kernels.name]}, and report it with "
            "the name of the chip"
        )
    return found


def _answer(
    kernels: Kernels, hidden: Tensor, head: Tensor, targets: Tensor, old: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and their gradient by row."""
    h = hidden.clone().requires_grad_()
    logp, _ = linear_logp_jac(h, head, targets, 0.9, old, kernels)
    logp.sum().backward()  # type: ignore[no-untyped-call]
    assert h.grad is not None
    return logp.detach(), h.grad
