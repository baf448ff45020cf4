"""Compiled layers give the numbers of eager ones to rounding, and are refused where they are not at home."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from grpo_kernels import PLAIN
from test_update import more, policy_of, same, sequences
from torch._dynamo.utils import counters

from grpo import engine
from grpo.compilation import can_build, compile_layers
from grpo.config import load
from grpo.errors import ConfigError, SetupError
from grpo.samplers import load_policy
from grpo.sections import Update
from grpo.standalone import _policy
from grpo.types import Sequence
from grpo.update import Updater

import runs

CPU = torch.device("cpu")
Adapter = dict[str, torch.Tensor]


@pytest.fixture
def fresh():
    """No graph of another test."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def updated(model: Path, parts: list[list[Sequence]], *, compiled: bool, recompute: bool = False) -> list[Adapter]:
    """The adapter after each update; all of them start from the same weights and an empty optimizer."""
    policy = policy_of(model)
    if compiled:
        compile_layers(policy)
    before, found = policy.adapter_state(), []
    config = Update(learning_rate=1e-2, warmup_steps=0, kl_coef=0.1, gradient_checkpointing=recompute)
    for part in parts:
        policy.load_adapter_state(before)
        Updater(policy, config, Accelerator(cpu=True), 10).step(part, 0)
        found.append(policy.adapter_state())
    return found


@pytest.mark.parametrize(
    "recompute", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.long)]
)
def test_compiled_updates_are_eager_ones_to_rounding(
    fresh: None, tiny_model: Path, recompute: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """fp32; three rows, one, four; with the pass of the base model that the KL term takes. More graphs than torch makes
    by itself before it gives up."""
    parts = [sequences(), more(), [*sequences(), *more()]]
    compiled = updated(tiny_model, parts, compiled=True, recompute=recompute)
    assert counters["stats"]["unique_graphs"] >= 4, "three rows, one row; trained, reference"
    assert "recompile_limit" not in caplog.text
    for mine, theirs in zip(compiled, updated(tiny_model, parts, compiled=False), strict=True):
        same(mine, theirs, 1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_setting_decides(tiny_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """No layer is called, so nothing is compiled here."""
    monkeypatch.setattr("grpo.samplers.choose_sampler", lambda _: "vllm")
    policy = load_policy(
        load(tiny_run("x", sampler="auto"), [f"update.compile={str(compiled).lower()}"]), CPU, "float32"
    )
    layers = policy.model.get_base_model().get_decoder().layers
    assert [layer._compiled_call_impl is not None for layer in layers] == [compiled] * len(layers)
    assert policy.kernels.name == ("compiled" if compiled else "plain")


def test_what_only_reads_a_policy_compiles_nothing(tiny_run: Callable[..., Path]) -> None:
    """chat generates with its layers, and needs no compiler."""
    policy, _ = _policy(load(tiny_run("x", sampler="auto"), ["update.compile=true"]), None)
    layers = policy.model.get_base_model().get_decoder().layers
    assert [layer._compiled_call_impl for layer in layers] == [None] * len(layers)
    assert policy.kernels is PLAIN


def test_transformers_would_sample_with_compiled_layers(
    tiny_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, or taken where there is no vLLM."""
    with pytest.raises(ConfigError, match=r"update\.compile needs vLLM"):
        load(tiny_run("x"), ["update.compile=true"])
    monkeypatch.setattr("grpo.samplers.choose_sampler", lambda _: "transformers")
    with pytest.raises(SetupError, match=r"update\.compile needs vLLM"):
        load_policy(load(tiny_run("x", sampler="auto"), ["update.compile=true"]), CPU, "float32")


def test_a_missing_compiler_is_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SetupError, match=r"needs a C\+\+ compiler"):
        compile_layers(policy_of(tiny_model))


def test_missing_headers_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert not can_build()
    (tmp_path / "Python.h").touch()
    assert can_build()


@pytest.mark.parametrize("other", ["update.shard_base=true", "update.pack_base=true"])
def test_layers_that_are_split_or_packed_are_refused(tiny_run: Callable[..., Path], other: str) -> None:
    settings = ["update.compile=true", other, "rollout.sync=adapter"]
    with pytest.raises(ConfigError, match=r"update\.compile: layers that are split over ranks or packed"):
        load(tiny_run("x", sampler="vllm"), settings)


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
def test_a_compiled_run_killed_and_resumed_is_the_eager_one_to_rounding(
    tiny_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sync is proved for compiled layers; that there are some, torch says."""
    eager, compiled = (tiny_run(name, sampler="vllm", steps=3) for name in ("eager", "compiled"))
    runs.train(eager)
    begun = runs.start(compiled, "update.compile=true")
    runs.wait_for_step(begun, tmp_path / "compiled", 1)
    runs.kill(begun)
    monkeypatch.setenv("TORCH_LOGS", "recompiles")
    assert "Recompiling function forward" in runs.train(compiled, "update.compile=true")
    events = [json.loads(line) for line in (tmp_path / "compiled" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("kernels_proved") == 2  # each time it is started
    for a, b in zip(*(runs.metrics(tmp_path / name) for name in ("eager", "compiled")), strict=True):
        for field in ("critic_rewards_mean", "actor_pg_loss", "actor_grad_norm", "actor_entropy", "sync_change"):
            assert a[field] == pytest.approx(b[field], rel=1e-3, abs=1e-6), (a["step"], field)
