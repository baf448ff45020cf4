"""What the policy hands out: merged weights by hand."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from grpo.policy import Policy
from grpo.sections import Lora


@pytest.fixture
def policy(tiny_model: Path) -> Policy:
    policy = Policy.load(
        tiny_model, dtype="float32", lora=Lora(rank=8, alpha=24), seed=0, temperature=1.0, device=torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(3)
    state = {n: torch.randn(v.shape, generator=generator) * 0.1 for n, v in policy.adapter_state().items()}
    policy.load_adapter_state(state)
    return policy


def test_merged_weights_are_base_plus_scaled_product(policy: Policy, tiny_model: Path, tmp_path: Path) -> None:
    """W + alpha / rank * B A, in float64, for every adapted module, and for nothing else."""
    survived = policy.save_merged(tmp_path / "merged.safetensors", "step-7")
    assert survived == pytest.approx(1.0, abs=1e-5)
    merged, base = load_file(tmp_path / "merged.safetensors"), load_file(tiny_model / "model.safetensors")
    adapter = policy.adapter_state()
    assert len(merged) == 14
    for name, weight in merged.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (adapter[f"{key}.lora_{side}.default.weight"].double() for side in "AB")
        torch.testing.assert_close(weight.double(), base[name].double() + 3.0 * (b @ a), atol=1e-5, rtol=0)
    with safe_open(tmp_path / "merged.safetensors", "pt") as file:
        assert file.metadata()["version"] == "step-7"


def test_a_reset_adapter_is_the_base_model(policy: Policy, tiny_model: Path, tmp_path: Path) -> None:
    policy.reset_adapter()
    policy.save_merged(tmp_path / "merged.safetensors", "base")
    base = load_file(tiny_model / "model.safetensors")
    assert all(torch.equal(w, base[n]) for n, w in load_file(tmp_path / "merged.safetensors").items())


def test_in_bfloat16_a_small_update_reaches_the_merged_weights(tiny_model: Path, tmp_path: Path) -> None:
    """As after a first step: to the nearest, less than a tenth of it would be left."""
    policy = Policy.load(
        tiny_model, dtype="bfloat16", lora=Lora(rank=8), seed=0, temperature=1.0, device=torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(3)
    state = policy.adapter_state()
    drawn = {n: torch.randn(v.shape, generator=generator) * 1e-5 if "lora_B" in n else v for n, v in state.items()}
    policy.load_adapter_state(drawn)
    left = wanted = 0.0
    for layer in policy.lora_layers().values():
        weight, delta = layer.get_base_layer().weight.detach(), layer.get_delta_weight("default").detach()
        nearest = (weight.float() + delta.float()).to(weight.dtype).float()
        left += float(((nearest - weight.float()) * delta).sum())
        wanted += float((delta * delta).sum())
    assert left < 0.1 * wanted
    assert policy.save_merged(tmp_path / "merged.safetensors", "step-1") == pytest.approx(1.0, abs=0.1)
