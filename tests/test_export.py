"""An exported model is the policy: its log-probabilities, in other hands."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.checkpoint import ADAPTER
from grpo.cli import adapter, run_config
from grpo.errors import ModelError
from grpo.export import export_merged
from grpo.hf_sampler import TransformersSampler
from grpo.samplers import load_policy

import runs

WEIGHTS = "adapter_model.safetensors"
PROBE = [([1, 70, 80, 2], [90, 91, 92]), ([1, 65, 2], [70, 0])]


def test_a_finished_run_in_other_hands(tiny_run, tmp_path: Path, tiny_model: Path) -> None:
    """One run, exported in both forms; then damaged."""
    runs.train(tiny_run("run", steps=3))
    run = tmp_path / "run"
    _merged_and_adapter_are_the_policy(run, tiny_model, tmp_path)
    _a_base_in_sixteen_bits_keeps_the_update(run, tiny_model, tmp_path)
    _the_card_says_what_it_was_made_from(run, tmp_path)
    _changed_files_have_no_digests(run, tmp_path)
    _damage_and_full_directories_are_refused(run, tmp_path)


def grpo(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "grpo", *words], capture_output=True, text=True)


def expected(run: Path) -> list[list[float]]:
    """By the trainer's own policy with the chosen adapter."""
    policy = load_policy(run_config(run), torch.device("cpu"), "float32")
    state = load_file(adapter(run) / "trainer.safetensors")
    policy.load_adapter_state({k.removeprefix(ADAPTER): v for k, v in state.items() if k.startswith(ADAPTER)})
    return TransformersSampler(policy).score(PROBE)


def scored(model: torch.nn.Module) -> list[list[float]]:
    found = []
    for prompt, completion in PROBE:
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0].tolist())
    return found


def same(found: list[list[float]], wanted: list[list[float]]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def _merged_and_adapter_are_the_policy(finished: Path, tiny_model: Path, tmp_path: Path) -> None:
    wanted = expected(finished)
    assert grpo("export", str(finished), "--merged", "--out", str(tmp_path / "merged")).returncode == 0
    same(scored(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)), wanted)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert grpo("export", str(finished), "--out", str(tmp_path / "adapter")).returncode == 0
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = scored(base)
    assert any(abs(a - b) > 1e-3 for x, y in zip(plain, wanted, strict=True) for a, b in zip(x, y, strict=True))
    same(scored(PeftModel.from_pretrained(base, tmp_path / "adapter")), wanted)
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def _a_base_in_sixteen_bits_keeps_the_update(finished: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Of alpha / rank * B A, by hand from the adapter's file; rounded to the nearest a part of it would be lost."""
    shutil.copytree(tiny_model, tmp_path / "low")
    file, settings = tmp_path / "low" / "model.safetensors", tmp_path / "low" / "config.json"
    large = 2.0**8  # of weights, beside an update that is far larger than those of real trainings
    base = {name: value.to(torch.bfloat16) * large for name, value in load_file(file).items()}
    save_file(base, file, {"format": "pt"})
    described = json.loads(settings.read_text())
    settings.write_text(json.dumps({k: v for k, v in described.items() if k != "dtype"} | {"torch_dtype": "bfloat16"}))
    config = run_config(finished)
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": tmp_path / "low"})})
    export_merged(finished, config, adapter(finished), tmp_path / "merged-low")
    merged, update = load_file(tmp_path / "merged-low" / "model.safetensors"), load_file(adapter(finished) / WEIGHTS)
    kept = nearest = wanted = 0.0
    for name in [name for name in update if "lora_A" in name]:
        delta = config.lora.alpha / config.lora.rank * (update[name.replace("lora_A", "lora_B")] @ update[name])
        key = name.removeprefix("base_model.model.").replace(".lora_A", "")
        weight = base[key].float()
        assert merged[key].dtype == torch.bfloat16
        kept += float(((merged[key].float() - weight) * delta).sum())
        nearest += float((((weight + delta).to(torch.bfloat16).float() - weight) * delta).sum())
        wanted += float((delta * delta).sum())
    assert nearest < 0.6 * wanted
    assert kept == pytest.approx(wanted, rel=0.05)
    base[key][0, 0] = torch.inf
    save_file(base, file, {"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        export_merged(finished, config, adapter(finished), tmp_path / "broken")


def _the_card_says_what_it_was_made_from(finished: Path, tmp_path: Path) -> None:
    text = (tmp_path / "adapter" / "README.md").read_text()
    for name in ("train.jsonl", "heldout.jsonl", "reward.py"):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() in text
    result = json.loads((finished / "result.json").read_text())
    assert f"| tuned | {result['tuned']['mean']:.3f} |" in text
    assert f"Verdict `{result['verdict']}`" in text
    assert "--max-lora-rank 8" in text


def _changed_files_have_no_digests(finished: Path, tmp_path: Path) -> None:
    """The card never names a file that was not trained on."""
    train = tmp_path / "train.jsonl"
    train.write_text(train.read_text() + train.read_text().splitlines()[0] + "\n")
    assert grpo("export", str(finished), "--out", str(tmp_path / "later")).returncode == 0
    text = (tmp_path / "later" / "README.md").read_text()
    assert "changed since the training" in text
    assert hashlib.sha256(train.read_bytes()).hexdigest() not in text
    assert json.loads((finished / "config.json").read_text())["digest"] in text


def _damage_and_full_directories_are_refused(finished: Path, tmp_path: Path) -> None:
    done = grpo("export", str(finished), "--out", str(tmp_path / "merged"))
    assert (done.returncode, "is not empty" in done.stderr) == (1, True)
    path = adapter(finished) / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = grpo("export", str(finished), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "adapter_model.safetensors" in done.stderr
    assert not (tmp_path / "out").exists()
