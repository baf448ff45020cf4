"""The plan: counts against published totals, sums by hand, activations against what torch really keeps."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import get_peft_model
from typer.testing import CliRunner

from grpo.attention import additive
from grpo.cli import app
from grpo.config import Config, load
from grpo.placement import (
    EAGER,
    GIB,
    SPARE,
    SPARE_OF_EXPERTS,
    Gpus,
    Placement,
    Refusal,
    layer_activations,
    place,
    total,
    trainer_parts,
    weights,
)
from grpo.policy import lora_settings
from grpo.sections import Lora
from grpo.shapes import Shape, shape_of

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "configs" / "models"
PUBLISHED = {
    "gemma-3-1b-it": 999_885_952,
    "gpt-oss-20b": 20_914_757_184,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "qwen2.5-1.5b-instruct": 1_543_714_304,
    "qwen2.5-3b-instruct": 3_085_938_688,
    "qwen2.5-7b-instruct": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-32b": 32_762_123_264,
}
"""The models' own pages: parameters of their safetensors, a tied head counted once."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert shape_of(MODELS / name, Lora()).parameters == PUBLISHED[name]


def test_an_adapter_by_hand() -> None:
    """Llama 3.1 8B, rank 32: of each layer q and o 4096 + 4096, k and v 4096 + 1024, three times 4096 + 14336."""
    shape = shape_of(MODELS / "llama-3.1-8b-instruct", Lora(rank=32))
    assert shape.adapter == 32 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert shape.adapted == 7 * 32
    oss = shape_of(MODELS / "gpt-oss-20b", Lora())
    assert oss.adapted == 4 * 24, "attention only: the experts are no linear layers"
    # a layer's 32 experts: 2880 x 5760 and a bias of 5760, 2880 x 2880 and a bias of 2880
    assert oss.experts == 24 * 32 * (2880 * 5760 + 5760 + 2880 * 2880 + 2880)
    # 19.1 billion numbers at 4.25 bits, the rest at 16: the published checkpoint has 13.8 GB
    assert weights(oss, 2.0, trainer=False) == pytest.approx(13.76e9, rel=0.01)


TOY = Shape(
    parameters=1000,
    experts=0,
    eager=False,
    quantised=False,
    adapter=10,
    adapted=2,
    adapted_inputs=40,
    norms=2,
    layers=2,
    hidden=8,
    heads=2,
    kv_heads=1,
    head_dim=4,
    inner=16,
    vocabulary=50,
    outside=100,
    longest=100,
    head_norms=False,
)


def test_sums_by_hand() -> None:
    """A layer keeps, of a token, 2 * 2 * 8 + 2 * 4 * 8 + 5 * 2 * 8 + 4 * 2 * 16 = 32 + 64 + 80 + 128 bytes.

    Packed: 4 * 20 of inputs in fp32 instead of 2 * (2 * 8 + 8 + 16)."""
    assert layer_activations(TOY, 2.0) == 304
    assert layer_activations(TOY, 4.0) == 2 * 4 * 8 + 2 * 4 * 8 + 5 * 4 * 8 + 4 * 4 * 16
    assert layer_activations(TOY, 2.0, packed=True) == 304 - 80 + 80
    assert layer_activations(replace(TOY, adapted_inputs=60), 2.0, packed=True) == 304 - 80 + 120
    more = trainer_parts(replace(TOY, adapted_inputs=60), 10, False, 2.0, 6, packed=True)["activations"]
    assert more - trainer_parts(TOY, 10, False, 2.0, 6)["activations"] == 2 * 10 * 40 * 1.25
    assert layer_activations(replace(TOY, experts=1), 2.0) == 304 - 2 * 16
    assert layer_activations(replace(TOY, head_norms=True), 2.0) == 304 + 4 * 3 * 4  # two heads and a key of 4
    parts = trainer_parts(TOY, 10, False, 2.0, 6)
    assert (parts["weights"], parts["adapter and optimizer"]) == (2000, 160)
    assert parts["activations"] == 2 * 10 * 304 * 1.25 + 5 * 10 * 6  # masks: 1 + 2 + 2 bytes
    assert trainer_parts(TOY, 10, True, 2.0, 6)["activations"] == 10 * 2 * 2 * 8 + 10 * 304 * 1.25 + 5 * 10 * 6
    eager = replace(TOY, eager=True)
    more = trainer_parts(eager, 10, True, 2.0, 6)["activations"] - trainer_parts(TOY, 10, True, 2.0, 6)["activations"]
    assert more == 5 * 2 * 2 * 10 * 6  # five matrices of two heads in two bytes
    assert trainer_parts(TOY, 10, False, 4.0, 6)["weights"] == 4000
    # split over 4: 900 numbers in two layers; a quarter of them, both layers whole, and the 100 outside
    assert trainer_parts(TOY, 10, False, 2.0, 6, ranks=4)["weights"] == 2 * (100 + 225 + 900)
    # packed: those 900 in 4.5 bits, one layer of 450 unpacked, and the 100 outside
    assert trainer_parts(TOY, 10, False, 2.0, 6, packed=True)["weights"] == 2 * 100 + 900 * 4.5 / 8 + 2 * 450


def placement(sleep: bool) -> Placement:
    return Placement(
        ranks=1,
        shard_base=False,
        tensor_parallel=1,
        sleep=sleep,
        gradient_checkpointing=True,
        tokens_per_microbatch=1024,
        at_once=16,
        engine_memory_share=0.5,
        trainer={"weights": 10.0 * GIB, "activations": 6.0 * GIB, "head": 1.0 * GIB},
        engine={"weights": 10.0 * GIB, "cache": 5.0 * GIB},
    )


def test_who_is_in_memory_together() -> None:
    """Awake 17 + 15. Asleep the larger of 17 and a process of 1, and the weights of 10 beside 15."""
    assert total(placement(sleep=False)) == 32 * GIB
    assert total(placement(sleep=True)) == 25 * GIB


def config(name: str, tmp_path: Path) -> Config:
    """As little as a user of Bedrock gives: model, file, grader."""
    path = tmp_path / "plan.toml"
    path.write_text(
        f'[run]\ndir = "x"\n[model]\npath = "{MODELS / name}"\n[data]\ntrain = "t.jsonl"\n[reward]\nbuiltin = "exact"\n'
    )
    return load(path)


def test_what_fits_where(tmp_path: Path) -> None:
    def placed(name: str, count: int, gib: float) -> Placement | Refusal:
        settings = config(name, tmp_path)
        return place(settings, shape_of(settings.model.path, settings.lora), Gpus(count, gib))

    split = placed("qwen3-32b", 2, 80)
    assert isinstance(split, Placement)
    assert split.shard_base, "61 GiB on a card, beside an engine's half of them, are too much"
    for name, count, gib in (("qwen3-0.6b", 1, 24), ("gpt-oss-20b", 1, 80), ("llama-3.1-8b-instruct", 1, 80)):
        found = placed(name, count, gib)
        assert isinstance(found, Placement)
        assert total(found) <= gib * GIB * 0.95
    four = placed("qwen3-4b", 1, 24)
    assert isinstance(four, Placement)
    for name, count, gib in (
        ("gpt-oss-20b", 1, 24),
        ("llama-3.1-8b-instruct", 1, 24),
        ("qwen3-32b", 1, 80),
        ("qwen3-32b", 8, 24),
    ):
        refused = placed(name, count, gib)
        assert isinstance(refused, Refusal)
        assert f"{count} x {gib:g} GiB" in refused.reason
    settings = config("qwen3-0.6b", tmp_path)
    long = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"max_tokens": 40_000})})
    found = place(long, shape_of(settings.model.path, settings.lora), Gpus(1, 141))
    assert isinstance(found, Placement)
    assert found.tokens_per_microbatch == 40_512, "a micro-batch holds the longest prompt with its completion"
    exact = settings.model_copy(update={"model": settings.model.model_copy(update={"dtype": "float32"})})
    double = place(exact, shape_of(settings.model.path, settings.lora), Gpus(1, 80))
    assert isinstance(double, Placement)
    assert double.engine["weights"] == pytest.approx(4 * PUBLISHED["qwen3-0.6b"])
    crowded = placed("llama-3.1-8b-instruct", 1, 44)
    assert isinstance(crowded, Placement)
    assert crowded.gradient_checkpointing


SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
TOKENS = 384


def configuration(family: str, layers: int) -> Any:
    """Layers of one kind, so that one more is one more of the same."""
    same = {"num_hidden_layers": layers, "vocab_size": 64, "pad_token_id": 0}
    full = {"layer_types": ["full_attention"] * layers}
    if family == "llama":
        return transformers.LlamaConfig(**SIZES, **same)
    if family == "gemma3":
        return transformers.Gemma3TextConfig(**SIZES, **same, **full)
    return transformers.GptOssConfig(**SIZES, **same, **full, num_local_experts=8, num_experts_per_tok=4)


def kept_bytes(family: str, layers: int, packed: bool) -> tuple[float, float]:
    """What torch keeps for the backward pass of a LoRA forward in bf16, parameters aside.

    Matrices of all pairs of tokens apart from the rest. The mask is the one the trainer makes. ``packed``: with PEFT's
    own layers, which packed ones are.
    """
    base = transformers.AutoModelForCausalLM.from_config(configuration(family, layers)).to(torch.bfloat16)
    model = get_peft_model(
        base.requires_grad_(False), lora_settings(Lora(rank=8), packed=packed), autocast_adapter_dtype=True
    ).eval()
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[bool, dict[int, int]] = {False: {}, True: {}}
    alive = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        pairs = value.dim() >= 2 and all(
            size in (TOKENS, TOKENS + 1) for size in value.shape[-2:]
        )  # + 1: GPT-OSS's sink
        if storage._cdata not in own:
            kept[pairs][storage._cdata] = storage.nbytes()
        alive.append(value)  # a freed storage's address may come again
        return value

    ids = torch.zeros(1, TOKENS, dtype=torch.long)
    mask = additive(torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool).tril(), torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model.get_base_model().get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    return float(sum(kept[False].values())), float(sum(kept[True].values()))


@pytest.mark.parametrize(
    ("family", "packed", "least", "most"),
    [
        ("llama", False, 0.9, 1.1),
        ("llama", True, 0.9, 1.1),
        ("gemma3", False, 1.1, SPARE),
        ("gpt_oss", False, 1.5, SPARE_OF_EXPERTS),
    ],
)
def test_activations_are_what_torch_keeps(family: str, packed: bool, least: float, most: float) -> None:
    """Of one more layer, as a multiple of the formula; the plan allows for the largest of each kind."""
    (few, few_pairs), (many, many_pairs) = kept_bytes(family, 1, packed), kept_bytes(family, 3, packed)
    oss = family == "gpt_oss"
    wide = {"hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "inner": 704 * (4 if oss else 1)}
    counts = {"adapted_inputs": 6 * 256 + 704, "norms": 4 if family == "gemma3" else 2, "experts": int(oss)}
    formula = layer_activations(replace(TOY, layers=1, **counts, **wide), 2.0, packed=packed)
    print(f"{family}: {(many - few) / 2 / TOKENS / formula:.2f} times the formula")
    assert least < (many - few) / 2 / TOKENS / formula < most
    pairs = (many_pairs - few_pairs) / 2 / TOKENS**2
    if oss:
        assert 0 < pairs <= EAGER * 2 * 4, "attention without a fused form keeps its probabilities"
    else:
        assert pairs == 0, "one mask for all layers, and none of its copies"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "grpo", "plan", *words], capture_output=True, text=True, cwd=ROOT)


SHIPPED = [*(ROOT / "configs").glob("*.toml"), *(ROOT / "configs" / "bench" / "training").glob("*.toml")]
CONFIGS = sorted(path for path in SHIPPED if path.stem != "demo" and not path.stem.startswith("cpu-"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_says_its_plan(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its header, as ``grpo plan`` prints it for the cards named there; and what the file sets is what it says."""
    header = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    (command,) = [line for line in header if line.startswith(".venv/bin/grpo plan")]
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, [*command.split()[1:], "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["fits"] == (done.exit_code == 0)
    if not found["fits"]:
        assert any("does not fit" in line for line in header)
        return
    for who, parts in (("trainer", found["trainer"]), ("engine", found["engine"])):
        said = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
        (line,) = [line for line in header if line.startswith(who)]
        assert f": {said} GiB" in line
    settings = load(path)
    assert settings.rollout.sleep == found["sleep"]
    assert settings.rollout.tensor_parallel == found["tensor_parallel"]
    assert settings.rollout.engine_memory_share == found["engine_memory_share"]
    assert settings.update.tokens_per_microbatch == found["tokens_per_microbatch"]
    assert settings.update.gradient_checkpointing == found["gradient_checkpointing"]
    assert settings.update.shard_base == found["shard_base"]


def test_the_command() -> None:
    done = run("configs/llama-3.1-8b.toml", "--gpus", "1x80")
    assert done.returncode == 0, done.stderr
    assert "83,886,080 trained" in done.stdout
    assert "gradient_checkpointing = true" in done.stdout
    assert "loading torch, transformers and PEFT ..." in done.stderr, "seconds, in which something must be seen"
    refused = run("configs/llama-3.1-8b.toml", "--gpus", "1x24")
    assert (refused.returncode, "does not fit: needs" in refused.stdout) == (1, True)
    wrong = run("configs/llama-3.1-8b.toml", "--gpus", "many")
    assert (wrong.returncode, "expected COUNTxGIB" in wrong.stderr) == (1, True)
