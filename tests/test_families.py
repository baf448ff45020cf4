"""Every architecture the engine is made for: the trainer's forward, and a short training through the real vLLM."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grpo import attention, engine
from grpo.batch import Batch
from grpo.errors import SyncError
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy
from grpo.sections import Lora
from grpo.sync import SyncProof

import families
import runs

LONG = [[1, *[70 + i, 90] * 8, 2] for i in range(4)]
"""Longer than the windows of the families that have some."""
ADAPTED = {"gpt_oss": 8}
"""Attention only: the experts are no linear layers. The others: seven a layer."""


def proof(family: str, folder: Path) -> Policy:
    """The shared-prefix forward against transformers' own full-logit one, to 1e-4 nats, under a large adapter."""
    model = families.make(family, folder / family)
    policy = Policy.load(model, dtype="float32", lora=Lora(), seed=0, temperature=0.8, device=torch.device("cpu"))
    SyncProof.establish(policy, TransformersSampler(policy), LONG, "float32", seed=0)
    return policy


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_forward_is_the_models_own(tmp_path: Path, family: str) -> None:
    policy = proof(family, tmp_path)
    assert len(policy.lora_layers()) == ADAPTED.get(family, 14)
    alone = policy.left_alone()
    if family != "gpt_oss":
        assert alone == {}
        return
    # a layer: 4 experts of 128 x 512 and 256 x 128, a router of 4 x 128, attention of 128 x (128 + 64 + 64 + 128)
    total = 4 * 128 * 512 + 4 * 256 * 128 + 4 * 128 + 128 * 384
    biases = 4 * 512 + 4 * 128  # of the experts: matrices, too
    assert alone["experts.gate_up_proj"] == pytest.approx(4 * 128 * 512 / (total + biases), rel=1e-9)
    assert alone["experts.down_proj"] == pytest.approx(4 * 256 * 128 / (total + biases), rel=1e-9)


@pytest.mark.parametrize("family", ["gemma3", "gpt_oss", "mistral"])
def test_a_forgotten_window_shows(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(batch: Batch, window: int) -> torch.Tensor:
        return torch.ones_like(batch.attends())

    monkeypatch.setattr(attention, "near", everything)
    with pytest.raises(SyncError, match="does not run the trainer's weights"):
        proof(family, tmp_path)


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
@pytest.mark.parametrize("family", families.FAMILIES[1:])
def test_three_steps_through_the_engine(tmp_path: Path, tiny_run, family: str) -> None:
    """Each sync is proved by the run itself; Llama trains in every other test."""
    model = families.make(family, tmp_path / "model")
    config = tiny_run("run", sampler="vllm", steps=3, model=model)
    runs.train(config)
    lines = runs.metrics(tmp_path / "run")
    assert [m["step"] for m in lines] == [0, 1, 2]
    synced = [m for m in lines if m["trained_tokens"]]
    assert synced
    assert all(m["sync_modules"] == ADAPTED.get(family, 14) for m in synced)
    assert all(m["sampler_gap_max"] < 1e-3 for m in lines)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["sampler"] == "vllm (merged)"
    adapter = load_file(sorted((tmp_path / "run" / "checkpoints").glob("step_*"))[-1] / "adapter_model.safetensors")
    assert any(float(value.abs().amax()) > 0 for name, value in adapter.items() if "lora_B" in name)


def test_layers_that_carry_a_state_are_refused(tmp_path: Path) -> None:
    """In a row that shares its prompt the second completion would see the first."""
    import transformers

    from grpo.errors import ModelError

    from conftest import tiny_tokenizer

    tokenizer, size = tiny_tokenizer()
    kinds = {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None}
    settings = transformers.Lfm2Config(vocab_size=size, **sizes, **kinds, **ends)
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has layers of conv, which carry a state along a row"):
        Policy.load(tmp_path, dtype="float32", lora=Lora(), seed=0, temperature=1.0, device=torch.device("cpu"))


def test_a_completion_that_sees_its_neighbour_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof scores two completions in one row, as training does."""

    def leaky(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        causal = torch.ones_like(sees).tril()
        return torch.zeros_like(sees, dtype=dtype).masked_fill_(~causal, torch.finfo(dtype).min)

    monkeypatch.setattr(attention, "additive", leaky)
    with pytest.raises(SyncError, match="does not run the trainer's weights"):
        proof("llama", tmp_path)
