"""A linear layer with an adapter, multiplied in the model's dtype. Touches: GPU.

PEFT multiplies in the adapter's own fp32: in a bf16 model that copies every input and every result, and keeps the
copies for the backward pass. Here the adapter's two small matrices are rounded to the model's dtype instead, for the
products only, as the engine does; values, gradients and optimizer stay fp32.

    y = x W' + b + s (x A') B'        LoRA, arXiv 2106.09685, equation 3; ' transposed

Shapes: T tokens, I and O widths of input and output, R rank.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class AdaptedLinear(Linear):  # type: ignore[misc]
    """PEFT's layer in everything but its product."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """[..., O] in the dtype of ``x`` [..., I]."""
        base = self.get_base_layer()
        if self.disable_adapters:
            found: Tensor = base(x)
            return found
        a_RI, b_OR = self.lora_A["default"].weight, self.lora_B["default"].weight * self.scaling["default"]
        given = x, base.weight, base.bias, a_RI.to(x.dtype), b_OR.to(x.dtype)
        product: Tensor = _Product.apply(*given)  # type: ignore[no-untyped-call]
        return product


LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: AdaptedLinear}
"""What PEFT makes of a layer it is to adapt."""


class _Product(torch.autograd.Function):
    """One product with the frozen weight in each direction, on top of which the adapter's is added in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor) -> Tensor:
        inner_TR = x.flatten(0, -2) @ a_RI.mT
        ctx.save_for_backward(x, weight_OI, a_RI, b_OR, inner_TR)
        out = nn.functional.linear(x, weight_OI, bias_O)
        return _added(out.view(-1, out.shape[-1]), inner_TR, b_OR.mT).view(out.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI, a_RI, b_OR, inner_TR = ctx.saved_tensors
        grad_TO = gradients[0].flatten(0, -2)
        grad_TR = grad_TO @ b_OR
        grad_x = _added(grad_TO @ weight_OI, grad_TR, a_RI).view(x.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_TR.mT @ x.flatten(0, -2), grad_TO.mT @ inner_TR


def _added(out: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``out + left @ right``, in ``out`` itself where torch does as it is told.

    The compiler would make a copy of ``out`` for that, and does not where the sum is one of wider numbers: then the
    next operation on the result takes it in.
    """
    if not torch.compiler.is_compiling():
        return out.addmm_(left, right)
    wide = torch.promote_types(out.dtype, torch.float32)
    return (out.to(wide) + (left @ right).to(wide)).to(out.dtype)
