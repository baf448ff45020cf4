"""The adapted layer against PEFT's own, in float64; its gradient against differences; what it keeps and rounds."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.autograd import gradcheck

from grpo.adapted import AdaptedLinear, _Product
from grpo.policy import lora_settings
from grpo.sections import Lora

WIDE = {"dtype": torch.float64}


class Pair(nn.Module):
    """Two linear layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(12, 20, bias=True)
        self.down = nn.Linear(20, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


def adapted(*, ours: bool) -> Any:
    """Equal weights for both, an adapter that does something."""
    torch.manual_seed(0)
    settings = lora_settings(Lora(rank=8, alpha=24, targets=["up", "down"]), packed=not ours)
    settings.task_type = None
    model = get_peft_model(Pair().requires_grad_(False), settings).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, **WIDE))
    return model


def test_values_and_gradients_are_pefts() -> None:
    """float64, to 1e-12: of the input, both matrices of each layer, and of the model with its adapter off."""
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(2), **WIDE)
    found = []
    for ours in (True, False):
        model, given = adapted(ours=ours), x.clone().requires_grad_(True)
        assert isinstance(model.base_model.model.up, AdaptedLinear) == ours
        out = model(given)
        (out.square().sum()).backward()
        trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        with model.disable_adapter(), torch.no_grad():
            found.append([out, model(x), given.grad, *(trained[n] for n in sorted(trained))])
    assert len(found[0]) == 3 + 4
    assert float((found[0][0] - found[0][1]).abs().max()) > 1, "the adapter matters"
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_is_that_of_the_value(bias: bool) -> None:
    """torch's gradcheck: finite differences in float64."""
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), **WIDE)  # noqa: E731
    x, a, b = (value.requires_grad_(True) for value in (draw(2, 3, 5), draw(2, 5), draw(4, 2)))
    assert gradcheck(_Product.apply, (x, draw(4, 5), draw(4) if bias else None, a, b))


def test_compiled_it_is_as_exact_as_eager_torch() -> None:
    """bf16 against float64 with the same weights: no tensor's error, by its norm, is twice that of the eager layer."""
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(3)).bfloat16()

    def answers(model: Any, dtype: torch.dtype) -> list[Tensor]:
        given = x.to(dtype, copy=True).requires_grad_(True)
        out = model.to(dtype)(given)
        out.sum().backward()
        trained = [p.grad for _, p in sorted(model.named_parameters()) if p.requires_grad]
        return [value.detach().double() for value in (out, given.grad, *trained)]

    eager, compiled = (adapted(ours=True).bfloat16() for _ in range(2))
    exact = answers(adapted(ours=True).bfloat16(), torch.float64)
    compiled.compile(dynamic=True)
    found = zip(exact, answers(eager, torch.bfloat16), answers(compiled, torch.bfloat16), strict=True)
    for right, plain, other in found:
        assert 0 < float((other - right).norm()) < 2 * float((plain - right).norm())


def test_a_model_in_bf16_keeps_no_copies_in_fp32() -> None:
    """Kept: the input (shared by whoever has the same), R numbers a token, and the rounded matrices."""
    torch.manual_seed(0)
    settings = lora_settings(Lora(rank=8, alpha=8, targets=["up", "down"]))
    settings.task_type = None
    model = get_peft_model(Pair().bfloat16().requires_grad_(False), settings, autocast_adapter_dtype=True)
    layer = model.base_model.model.up
    assert layer.lora_A["default"].weight.dtype == torch.float32
    x, kept = torch.randn(7, 12, dtype=torch.bfloat16), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert {t.dtype for t in kept if t.dim() == 2 and len(t) == 7} == {torch.bfloat16}
    assert sorted(t.shape[1] for t in kept if len(t) == 7) == [8, 12]
    out.sum().backward()
    assert layer.lora_B["default"].weight.grad.dtype == torch.float32
