"""Engines that somebody else runs: real vLLM over TCP, beside an own one, killed and started again."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from grpo import engine
from grpo.config import load
from grpo.connection import Connection, EngineDown
from grpo.engine_choice import why_no_proof
from grpo.errors import ConfigError, EngineError, SyncError
from grpo.policy import Policy
from grpo.remote_engine import RemoteEngine
from grpo.replicas import Replicas
from grpo.rollout import Delivery, Sampling
from grpo.sections import Lora
from grpo.sync import Agreement, Proofs
from grpo.types import Completion
from grpo.vllm_sampler import VllmSampler

import runs

SAMPLING = Sampling(completions=3, max_tokens=8, temperature=0.8)
PROMPTS = [[1, 70 + i, 80, 90 + i, 2] for i in range(4)]


class Elsewhere:
    """``grpo engine`` as a process of its own."""

    def __init__(self, config: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config, self.log = config, log
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [sys.executable, "-m", "grpo", "engine", str(self.config), "--port", str(self.port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self) -> None:
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                httpx.get(f"{self.url}/health").raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError("no engine within two minutes")


@pytest.fixture
def elsewhere(tiny_run, tmp_path: Path) -> Iterator[Elsewhere]:
    found = Elsewhere(tiny_run("elsewhere", sampler="vllm"), tmp_path / "elsewhere.log")
    yield found
    found.kill()


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
def test_an_own_engine_and_one_elsewhere(elsewhere: Elsewhere, tiny_run, tiny_model: Path, tmp_path: Path) -> None:
    """Both sample for a training, each proved; then the one elsewhere dies, comes back, and gets its weights again."""
    config = tiny_run("run", sampler="vllm", steps=3)
    engines = f'rollout.engines=["own", "{elsewhere.url}"]'
    output = runs.train(config, engines)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    proved = [e["sampler"] for e in events if e["event"] == "sync_proved"]
    assert proved == ["vllm (merged)", f"vllm at {elsewhere.url} (merged)"]
    metrics = runs.metrics(tmp_path / "run")
    assert [m["sync_residual"] < 1e-4 for m in metrics] == [True] * 3, output
    assert [m["sampler_gap_max"] < 1e-3 for m in metrics] == [True] * 3
    assert "POST /v1/completions" not in elsewhere.log.read_text(), "no access log of prompts"
    _comes_back(elsewhere, config, tiny_model, tmp_path)


def _comes_back(elsewhere: Elsewhere, config: Path, model: Path, tmp_path: Path) -> None:
    settings = load(config, ["rollout.timeout_s=90"])
    policy = Policy.load(model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=0.8, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    state = policy.adapter_state()
    policy.load_adapter_state({n: v + torch.randn(v.shape, generator=generator) * 0.05 for n, v in state.items()})
    reasons: list[str] = []
    sampler = VllmSampler(
        settings, policy, dtype="float32", log=tmp_path / "l", on_restart=reasons.append, at=elsewhere.url
    )
    sampler.sync("step-7")
    before = sampler.sample(PROMPTS, SAMPLING, [5] * 4)
    elsewhere.kill()
    elsewhere.start()
    elsewhere.wait()  # back under the same address, with the base model's weights: only the version can tell
    assert sampler.sample(PROMPTS, SAMPLING, [5] * 4) == before
    assert len(reasons) == 1
    assert "has weights of None, not of 'step-7': it was restarted" in reasons[0]
    sampler.close()
    elsewhere.wait()


def test_nobody_there(tiny_run, tiny_model: Path, tmp_path: Path) -> None:
    settings = load(tiny_run("run", sampler="vllm"), ["rollout.timeout_s=1"])
    policy = Policy.load(
        tiny_model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=1.0, device=torch.device("cpu")
    )
    at = "http://127.0.0.1:9"
    sampler = VllmSampler(settings, policy, dtype="float32", log=tmp_path / "l", on_restart=print, at=at)
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9: no engine answers there .*grpo engine CONFIG"):
        sampler.ready()


@pytest.mark.parametrize(
    ("engines", "problem"),
    [
        ('["own", "own"]', "name each engine once"),
        ("[]", "name each engine once, and at least one"),
        ('["gpu2:8000"]', "neither 'own' nor http"),
        ('["http://gpu2:8000/v1"]', "neither 'own' nor http"),
        ('["http://user@gpu2"]', "neither 'own' nor http"),
    ],
)
def test_names_of_engines(tiny_run, engines: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(tiny_run("run", sampler="vllm"), [f"rollout.engines={engines}"])


def test_transformers_have_no_engines(tiny_run) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.engines are vLLM's"):
        load(tiny_run("run"), ['rollout.engines=["http://gpu2:8000"]'])


class Echo:
    """Says which it is, and what it was asked."""

    def __init__(self, name: str, modules: int = 7, survived: float | None = None) -> None:
        self.name, self.modules, self.survived = name, modules, survived

    def sync(self, version: str) -> Delivery:
        return Delivery(seconds=0.0, modules=self.modules, survived=self.survived)

    def sample(self, prompts, sampling, seeds):
        texts = [f"{self.name} {prompt[0]} {seed}" for prompt, seed in zip(prompts, seeds, strict=True)]
        return [[Completion(token_ids=(1,), logprobs=(0.0,), text=t, finish_reason="stop")] for t in texts]

    def rest(self) -> None: ...

    def score(self, sequences):
        return [[0.0]]

    def close(self) -> None: ...


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_shares_come_back_in_order(count: int) -> None:
    replicas = Replicas([Echo("a"), Echo("b")])
    groups = replicas.sample([[i] for i in range(count)], SAMPLING, list(range(10, 10 + count)))
    assert [group[0].text for group in groups] == [f"{'ab'[i % 2]} {i} {10 + i}" for i in range(count)]


class Found:
    """A proof that found a residual."""

    def __init__(self, residual: float) -> None:
        self.residual, self.checked = residual, 0

    def check(self) -> Agreement:
        self.checked += 1
        return Agreement(residual=self.residual, change=1.0, visible=None)


def test_every_engine_is_checked_and_the_worst_is_reported() -> None:
    proofs = [Found(1e-5), Found(3e-5), Found(2e-5)]
    assert Proofs(proofs).check().residual == 3e-5
    assert [proof.checked for proof in proofs] == [1, 1, 1]


def test_no_proof_in_fp32_has_a_reason(tiny_run) -> None:
    config = tiny_run("run", sampler="vllm")
    assert why_no_proof(load(config), 0.5) is None
    assert "do not fit" in (why_no_proof(load(config), None) or "")
    assert why_no_proof(load(config, ['rollout.engines=["http://gpu2:8000"]']), 0.5) == "no engine runs here"
    assert why_no_proof(load(config, ["update.shard_base=true"]), 0.5) == "the model is split over ranks"


def test_workers_that_differ_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two workers came back without the weights."""
    remote = RemoteEngine("http://gpu2:8000", tmp_path, 1.0, lambda: "step-3")
    monkeypatch.setattr(Connection, "complete", lambda _, bodies: bodies)
    monkeypatch.setattr(Connection, "post", lambda *_: {"results": [{"version": "step-3"}, {"version": None}]})
    with pytest.raises(EngineDown, match="has weights of None, not of 'step-3'"):
        remote.complete([{}])
    monkeypatch.setattr(Connection, "post", lambda *_: {"results": [{"version": "step-3"}] * 2})
    assert remote.complete([{}]) == [{}]


def test_the_worst_of_all_is_reported() -> None:
    assert Replicas([Echo("a", survived=0.9), Echo("b", survived=0.7)]).sync("v").survived == 0.7
    with pytest.raises(SyncError, match=r"different numbers of adapted modules: \[7, 8\]"):
        Replicas([Echo("a"), Echo("b", modules=8)]).sync("v")
