"""A kept proof is found again for the same things, and for nothing else."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from grpo import kept_proof
from grpo.config import load


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "grpo" / "proofs"


@pytest.fixture
def run(tiny_run, tiny_model: Path, tmp_path: Path) -> Path:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    return tiny_run("run", model=model)


def test_it_is_found_for_what_it_was_made_for(run: Path) -> None:
    """Another learning rate, seed or reward changes nothing of it; nor do other weights of the same shapes."""
    assert kept_proof.find(load(run), "cpu") is None
    kept_proof.keep(load(run), "cpu", 1e-5)
    found = kept_proof.find(load(run, ["run.seed=3", "update.learning_rate=1", "rollout.max_tokens=4"]), "cpu")
    assert found is not None
    assert found["noise"] == 1e-5
    file = load(run).model.path / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    assert kept_proof.find(load(run), "cpu") == found


@pytest.mark.parametrize("change", ["lora.rank=16", "lora.alpha=8", "lora.targets=q_proj", "rollout.temperature=0.5"])
def test_another_adapter_is_proved_anew(run: Path, change: str) -> None:
    kept_proof.keep(load(run), "cpu", 1e-5)
    assert kept_proof.find(load(run, [change]), "cpu") is None


def test_another_model_library_or_processor_is_proved_anew(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(run)
    kept_proof.keep(config, "cpu", 1e-5)
    for name, value in (("_version", lambda _: "9"), ("_sources", lambda: "others"), ("_processor", lambda: "other")):
        with monkeypatch.context() as patched:
            patched.setattr(kept_proof, name, value)
            assert kept_proof.find(config, "cpu") is None, name
    assert kept_proof.find(config, "cuda") is None
    assert kept_proof.find(config, "cpu") is not None
    file = config.model.path / "model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("layers.0", "layers.7"): value for name, value in tensors.items()}, file)
    assert kept_proof.find(config, "cpu") is None
    save_file(tensors, file, {"format": "pt"})
    settings = config.model.path / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"rope_theta": 1.0}))
    assert kept_proof.find(config, "cpu") is None


def test_what_cannot_be_read_is_no_proof(run: Path, own_cache: Path) -> None:
    config = load(run)
    kept_proof.keep(config, "cpu", 1e-5)
    (kept,) = own_cache.iterdir()
    for text in ("", "{}", "no JSON"):
        kept.write_text(text)
        assert kept_proof.find(config, "cpu") is None
    (config.model.path / "model.safetensors").write_bytes(b"\xff" * 16)
    assert kept_proof.find(config, "cpu") is None
    (config.model.path / "config.json").unlink()
    assert kept_proof.find(config, "cpu") is None
