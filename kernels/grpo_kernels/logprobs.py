"""Log-probabilities of chosen tokens straight from hidden states; logits [T, V] never exist in memory.

Shapes: T tokens, H hidden size, V vocabulary, C rows of one chunk.

With a frozen head the gradient of any loss L(logp) reaches the hidden states through one matrix only:

    logp_t = z_ty - log sum_v exp(z_tv),   z = hidden @ head.T / temperature
    J_t    = d logp_t / d hidden_t = (W_y - sum_v p_tv W_v) / temperature
    dL/d hidden_t = (dL/d logp_t) * J_t

so the forward saves J and the backward is a product with a column: two matmuls of size T*V*H in all, where
recomputing the logits needs three and a gradient for the head a fourth. ``W_y - sum p W`` cancels when p_y is near 1,
so the target column is left out of the sum: J_t = (sum_{v!=y} p_v) W_y - sum_{v!=y} p_v W_v, all terms of one size.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""Memory for the logits of one chunk; 340 rows at a vocabulary of 49,152 in fp32."""


def token_logprobs(hidden: Tensor, head: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and the entropy of its distribution.

    hidden [T, H] and head [V, H] share a dtype; targets [T] int64. Returns logp [T] and entropy [T], fp32 nats.
    Differentiable in ``hidden`` through ``logp``; the entropy is a metric and carries no gradient.
    Raises ValueError when ``head`` requires a gradient, which this form cannot give.
    """
    if head.requires_grad:
        raise ValueError("token_logprobs needs a frozen head: its gradient is never formed. Freeze lm_head.")
    logp, entropy = _TokenLogprobs.apply(hidden, head, targets, temperature)  # type: ignore[no-untyped-call]
    return logp, entropy


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        total = hidden.shape[0]
        logp = hidden.new_empty(total, dtype=torch.float32)
        entropy = hidden.new_empty(total, dtype=torch.float32)
        jacobian = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = max(1, CHUNK_BYTES // (4 * head.shape[0]))
        for start in range(0, total, rows):
            part = slice(start, start + rows)
            logp[part], entropy[part], exps, norm = _chunk(hidden[part], head, targets[part], temperature)
            if jacobian is not None:
                jacobian[part] = _jacobian(exps, norm, head, targets[part], temperature)
        ctx.save_for_backward(jacobian)
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor, _grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        (jacobian,) = ctx.saved_tensors
        return grad_logp.to(jacobian.dtype)[:, None] * jacobian, None, None, None


def _chunk(hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logp [C], entropy [C], exp(z - max) [C, V] and its row sums [C, 1]."""
    logits = torch.matmul(hidden, head.T).float().div_(temperature)
    target = logits.gather(1, targets[:, None])
    top = logits.amax(1, keepdim=True)
    logits -= top
    exps = logits.exp()
    norm = exps.sum(1, keepdim=True)
    # entropy = log S - sum(e * (z - top)) / S; the product is formed in place of the logits
    moment = logits.mul_(exps).sum(1, keepdim=True)
    entropy = norm.log() - moment / norm
    return (target - top - norm.log())[:, 0], entropy[:, 0], exps, norm


def _jacobian(exps: Tensor, norm: Tensor, head: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """J [C, H]. Consumes ``exps``: the target's column is zeroed."""
    exps.scatter_(1, targets[:, None], 0.0)
    rest = exps.sum(1, keepdim=True)
    others = torch.matmul(exps.to(head.dtype), head).float()
    return ((rest * head[targets].float() - others) / (norm * temperature)).to(head.dtype)
