"""A base in four bits: the same numbers packed and plain, in the trainer and in the engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_update import sequences

from grpo import engine
from grpo.batch import pack
from grpo.errors import ConfigError, ModelError
from grpo.four_bits import plain_weight
from grpo.policy import Policy
from grpo.quantise import quantise
from grpo.sections import Lora

import runs

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The sixteen values of arXiv 2305.14314, appendix E."""


def policy_of(model: Path, packed: bool) -> Policy:
    return Policy.load(
        model, dtype="float32", lora=Lora(), seed=0, temperature=0.8, device=torch.device("cpu"), packed=packed
    )


@pytest.fixture(scope="module")
def on_grid(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grid") / "model"
    quantise(tiny_model, out, "float32")
    return out


def test_every_weight_is_a_value_of_the_paper(on_grid: Path, tiny_model: Path) -> None:
    """In blocks of 64 in row order: the largest of a block times the nearest of sixteen values."""
    before, after = load_file(tiny_model / "model.safetensors"), load_file(on_grid / "model.safetensors")
    values = torch.tensor(NF4, dtype=torch.float64)
    for name, weight in before.items():
        if "_proj" not in name:
            assert torch.equal(after[name], weight), name
            continue
        blocks = weight.double().reshape(-1, 64)
        largest = blocks.abs().amax(1, keepdim=True)
        nearest = values[((blocks / largest)[:, :, None] - values).abs().argmin(2)] * largest
        # bitsandbytes rounds at the middles of its own fp32 table: 1e-6 of the largest apart at the most
        assert float((after[name].double().reshape(-1, 64) - nearest).abs().amax()) < 1e-6 * float(largest.amax()), name


def test_packed_and_plain_are_one_model(on_grid: Path, tmp_path: Path) -> None:
    """Scores, gradients and merged weights; the packed one is 4.5 bits a number."""
    (batch,) = pack(sequences(), 4096)
    packed, plain = policy_of(on_grid, True), policy_of(on_grid, False)
    for policy in (packed, plain):
        with torch.no_grad():
            for name, parameter in policy.adapter_parameters().items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        policy.scores(batch).logprobs.sum().backward()
    assert torch.allclose(packed.scores(batch).logprobs, plain.scores(batch).logprobs, atol=1e-5)
    for name, parameter in packed.adapter_parameters().items():
        expected = plain.adapter_parameters()[name].grad
        assert expected is not None
        assert parameter.grad is not None
        assert float((parameter.grad - expected).abs().amax()) <= 1e-5 * float(expected.abs().amax()), name
    for policy, name in ((packed, "packed"), (plain, "plain")):
        policy.save_merged(tmp_path / name, "v")
    merged, expected = load_file(tmp_path / "packed"), load_file(tmp_path / "plain")
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)
    layer = packed.lora_layers()["model.layers.0.mlp.up_proj"].get_base_layer()
    stored = layer.weight.nbytes + layer.weight.quant_state.absmax.nbytes
    assert stored == 128 * 256 * 4.5 / 8
    assert packed.adapted_bytes() == plain.adapted_bytes() == sum(t.nbytes for t in merged.values())


def test_what_is_off_the_grid_is_refused(on_grid: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Packing it would change the model under the engine's feet."""
    with pytest.raises(ModelError, match=r"does not lie on NF4's grid.*grpo quantise"):
        policy_of(tiny_model, True)
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in on_grid.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    weights = load_file(on_grid / "model.safetensors")
    weights["model.layers.1.self_attn.q_proj.weight"][0, 0] += 0.01
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_proj does not lie on NF4's grid"):
        policy_of(moved, True)
    settings = json.loads((on_grid / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(settings | {"nf4_grid": "bfloat16"}))
    with pytest.raises(ModelError, match="on NF4's grid in bfloat16, not in float32"):
        policy_of(moved, True)
    with pytest.raises(ConfigError, match="is not empty"):
        quantise(tiny_model, moved, "float32")
    (moved / "config.json").write_text(json.dumps(settings | {"quantization_config": {"quant_method": "mxfp4"}}))
    with pytest.raises(ModelError, match="quantised already"):
        quantise(moved, tmp_path / "again", "float32")


def test_16_bits_lie_on_the_grid_of_16_bits(tiny_model: Path, tmp_path: Path) -> None:
    """From the command line; packing in bfloat16 then gives the file's numbers bit by bit."""
    out = tmp_path / "model"
    done = subprocess.run(
        [sys.executable, "-m", "grpo", "quantise", str(tiny_model), str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "changed by 9." in done.stdout  # NF4 of a normal weight: the error is 9 to 10 % (measured in float64 above)
    policy = Policy.load(
        out, dtype="bfloat16", lora=Lora(), seed=0, temperature=1.0, device=torch.device("cpu"), packed=True
    )
    stored = load_file(out / "model.safetensors")
    for name, layer in policy.lora_layers().items():
        assert torch.equal(plain_weight(layer.get_base_layer()), stored[f"{name}.weight"])


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
def test_a_packed_training_through_the_engine(tiny_run, on_grid: Path, tmp_path: Path) -> None:
    """Every sync is proved to 1e-4 nats, and the run makes the updates of the one that is not packed."""
    config = tiny_run("packed", sampler="vllm", steps=3, model=on_grid)
    runs.train(config, "update.pack_base=true")
    plain = tiny_run("plain", sampler="vllm", steps=3, model=on_grid)
    runs.train(plain)
    for a, b in zip(runs.metrics(tmp_path / "packed"), runs.metrics(tmp_path / "plain"), strict=True):
        assert a["critic_rewards_mean"] == b["critic_rewards_mean"]
        assert a["sampler_gap_max"] < 1e-4
