"""Log-probabilities of chosen tokens straight from hidden states; logits [T, V] never exist in memory.

With a frozen head the gradient of any loss L(logp) reaches the hidden states through one matrix only:

    logp_t = z_ty - log sum_v exp(z_tv),   z = hidden @ head.T / temperature
    J_t    = d logp_t / d hidden_t = (W_y - sum_v p_tv W_v) / temperature
    dL/d hidden_t = (dL/d logp_t) * J_t

so the forward saves J and the backward is a product with a column: two matmuls of size T*V*H in all, where
recomputing the logits needs three and a gradient for the head a fourth. ``W_y - sum p W`` cancels when p_y is near 1,
so the target's column is left out of every sum, and the p_v are those that enter the product, as rounded:

    J_t = (1 - p_y) * (W_y - sum_{v!=y} p_v W_v / sum_{v!=y} p_v) / temperature

The exponentials are taken relative to an anchor, a_t = z_ty - old_t, with any estimate old_t of logp_t, for instance
the sampler's: then sum_v exp(z_tv - a_t) = exp(old_t - logp_t), near 1, and no maximum need be known before. The result
does not depend on the estimate; where one is so bad that numbers are lost, the row is done again from its maximum.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from grpo_kernels.types import Kernels

ROWS_OF_TRAINED_HEAD = 256


def linear_logp_jac(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    old_logprobs: Tensor | None,
    kernels: Kernels,
    *,
    rounded: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and the entropy of its distribution, [T] each, in fp32 nats.

    hidden [T, H] and head [V, H] share a dtype; targets [T] int64; temperature one for all, or [T]; old_logprobs [T],
    any estimate, changes the rounding alone. Differentiable in ``hidden`` through the log-probabilities; the entropy is
    a metric. Without a gradient it takes one matmul. A head that is trained costs four and logits of some rows.

    ``rounded``: the logits are those of a layer in the head's dtype, which rounds them, as samplers do; the gradient
    takes no notice of it. Else they are in fp32, from the same numbers.
    """
    if head.requires_grad:
        return _with_trained_head(hidden, head, targets, temperature, rounded)
    inverse = per_token(temperature, hidden)
    hidden, head, targets = hidden.contiguous(), head.contiguous(), targets.contiguous()  # kernels count in rows
    if not (hidden.requires_grad and torch.is_grad_enabled()):
        return kernels.linear_logp(hidden, head, targets, inverse, rounded)
    if old_logprobs is None and head.dtype == torch.float16:  # which has no room for a rough anchor
        old_logprobs = kernels.linear_logp(hidden.detach(), head, targets, inverse, rounded)[0]
    old = torch.zeros_like(inverse) if old_logprobs is None else old_logprobs.to(inverse.dtype).contiguous()
    logp, entropy = _LinearLogp.apply(  # type: ignore[no-untyped-call]
        hidden, head, targets, inverse, old, kernels, rounded
    )
    return logp, entropy


def _even(count: int, most: int) -> int:
    """Rows of each piece where no small rest is left over: at most ``most``, a multiple of 64 where that allows it."""
    pieces = max(1, -(-count // most))
    return max(1, min(most, -(-count // pieces // 64) * 64))


def per_token(temperature: float | Tensor, hidden: Tensor) -> Tensor:
    """[T] reciprocals, in the dtype of the sums."""
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    if isinstance(temperature, Tensor):
        return temperature.to(kind).reciprocal().expand(len(hidden)).contiguous()
    return torch.full((len(hidden),), 1.0 / temperature, dtype=kind, device=hidden.device)


class _LinearLogp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        inverse: Tensor,
        old: Tensor,
        kernels: Kernels,
        rounded: bool,
    ) -> tuple[Tensor, Tensor]:
        logp, entropy, jacobian = torch.empty_like(inverse), torch.empty_like(inverse), torch.empty_like(hidden)
        logits = kernels.target_logit(hidden, head, targets, inverse, rounded)
        anchors = logits - old
        rows = _even(len(hidden), kernels.rows_at_once(head))
        by_token = (targets, inverse, logits, anchors, hidden, logp, entropy, jacobian)
        pieces = zip(*(torch.split(each, rows) for each in by_token), strict=True) if len(hidden) else ()
        for y, scale, own, anchor, some, *out in pieces:
            sums = kernels.anchored_sums(some, head, y, scale, own, anchor, rounded)
            kernels.close(head, y, scale, own, sums, out)
        ctx.save_for_backward(jacobian)
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor, _grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        (jacobian,) = ctx.saved_tensors
        return grad_logp.to(jacobian.dtype)[:, None] * jacobian, *[None] * 6


def _with_trained_head(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float | Tensor, rounded: bool
) -> tuple[Tensor, Tensor]:
    """By torch's own gradients, some rows at a time, with their logits computed again in the backward pass."""
    inverse = per_token(temperature, hidden)

    def some(rows: Tensor, wanted: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        kind = head.dtype if rounded else scale.dtype
        logp = (torch.matmul(rows.to(kind), head.T.to(kind)).to(scale.dtype) * scale[:, None]).log_softmax(1)
        entropy = -(logp.exp() * logp).sum(1)
        return logp.gather(1, wanted[:, None])[:, 0], entropy.detach()

    pieces = zip(*(torch.split(value, ROWS_OF_TRAINED_HEAD) for value in (hidden, targets, inverse)), strict=True)
    found = [checkpoint(some, *piece, use_reentrant=False) for piece in pieces]
    logp, entropy = zip(*found, strict=True)
    return torch.cat(logp), torch.cat(entropy)
