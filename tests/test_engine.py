"""The real vLLM engine: what it returns, how it is guarded, how it dies and comes back. One engine for most tests."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import torch

from grpo import engine, process_host
from grpo.config import load
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy
from grpo.rollout import Sampling
from grpo.sections import Lora
from grpo.sync import SyncProof
from grpo.vllm_sampler import VllmSampler

import runs
from conftest import make_tiny_model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how"),
]

PROMPTS = [[1, 70 + i, 80, 90 + i, 2] for i in range(4)]
SAMPLING = Sampling(completions=3, max_tokens=8, temperature=0.8)


def open_sampler(
    model: Path, tmp_path: Path, tiny_run, strategy: str = "merged", compile_: str = "auto"
) -> VllmSampler:
    settings = [f"rollout.sync={strategy}", f"rollout.compile={compile_}", "rollout.timeout_s=60"]
    config = load(tiny_run("unused", sampler="vllm", model=model), settings)
    policy = Policy.load(model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=0.8, device=torch.device("cpu"))
    sampler = VllmSampler(config, policy, dtype="float32", log=tmp_path / "engine.log", on_restart=lambda _reason: None)
    sampler.ready()
    return sampler


def change(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = policy.adapter_state()
    policy.load_adapter_state({n: v + torch.randn(v.shape, generator=generator) * 0.02 for n, v in state.items()})


def test_one_engine_from_start_to_end(tiny_model: Path, tmp_path: Path, tiny_run) -> None:
    sampler, log = open_sampler(tiny_model, tmp_path, tiny_run), str(tmp_path / "engine.log")
    try:
        _listens_privately(sampler)
        assert _compilation(sampler) == 0, "on a CPU, unless it is asked for"
        _is_capped(sampler)
        everyone = [Path(f"/proc/{pid}/cmdline").read_text() for pid in runs.writing(log)]
        assert any("EngineCore" in words for words in everyone), "who holds the weights is seen"
        _proves_its_sync(sampler)
        _returns_what_it_sampled(sampler)
        _is_asked_what_it_documents(sampler)
        _survives(sampler, signal.SIGKILL)
    finally:
        scratch = sampler.engine.scratch
        sampler.close()
    assert not scratch.exists()
    assert runs.alive(str(scratch)) + runs.writing(log) == []


def _compilation(sampler: VllmSampler) -> int:
    """vLLM's CompilationMode, by its own word; 0 is none."""
    return int(sampler.engine.get("/server_info?config_format=json")["vllm_config"]["compilation_config"]["mode"])


def _is_capped(sampler: VllmSampler) -> None:
    """Every process of the engine, by what the kernel says: RLIMIT_DATA at 60 % of the machine's memory."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert sampler.engine.pid is not None
    processes = process_host.descendants(sampler.engine.pid)
    assert len(processes) >= 2  # the server and its core
    for pid in processes:
        (line,) = [x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if x.startswith("Max data size")]
        assert int(line.split()[3]) == pytest.approx(0.6 * memory, rel=0.01)


@pytest.mark.parametrize(("mib", "fails"), [(2048, True), (100, False)])
def test_an_engine_that_leaks_dies_alone(mib: int, fails: bool, tmp_path: Path) -> None:
    """Under the same host, with a limit of 1 GiB: a child that takes 2 GiB, and one that stays below."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    leak = [sys.executable, "-c", f"bytearray({mib} * 2**20)"]
    host = [sys.executable, process_host.__file__, str(scratch), str(2**30), *leak]
    with subprocess.Popen(host, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(timeout=60) == int(fails)
        assert process.stderr is not None
        assert ("MemoryError" in process.stderr.read()) is fails
    assert not scratch.exists()


def _listens_privately(sampler: VllmSampler) -> None:
    """A socket in a directory only we can enter, and no TCP port at all."""
    assert stat.S_IMODE(os.stat(sampler.engine.scratch).st_mode) == 0o700
    assert sampler.engine.pid is not None
    processes = {sampler.engine.pid, *process_host.descendants(sampler.engine.pid)}
    sockets = {
        os.readlink(fd)
        for pid in processes
        for fd in Path(f"/proc/{pid}/fd").iterdir()
        if fd.is_symlink() and os.readlink(fd).startswith("socket:")
    }
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            cells = line.split()
            listening_elsewhere = cells[3] == "0A" and f"socket:[{cells[9]}]" in sockets
            assert not listening_elsewhere or cells[1].startswith("0100007F"), line


def _proves_its_sync(sampler: VllmSampler) -> None:
    proof = SyncProof.establish(sampler.policy, sampler, PROMPTS, "float32", seed=0)
    for step in range(2):
        change(sampler.policy, step)
        delivery = sampler.sync(f"step-{step}")
        agreement = proof.check()
        assert delivery.modules == len(sampler.policy.lora_layers()) == 14
        assert delivery.survived == pytest.approx(1.0, abs=1e-4)
        assert agreement.visible is not None
        assert agreement.visible < 0.5


def _returns_what_it_sampled(sampler: VllmSampler) -> None:
    """Log-probabilities at the sampling temperature against transformers' full-logit forward; seeds decide."""
    seeds = [11, 12, 13, 14]
    groups = sampler.sample(PROMPTS, SAMPLING, seeds)
    oracle = TransformersSampler(sampler.policy)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        assert len(group) == 3
        for c in group:
            assert c.finish_reason == ("stop" if c.token_ids[-1] == 0 else "length")
            (expected,) = oracle._logprobs(prompt, [c.token_ids], SAMPLING.temperature)
            assert list(c.logprobs) == pytest.approx(expected, abs=1e-4)
    assert sampler.sample(PROMPTS, SAMPLING, seeds) == groups
    assert sampler.sample(PROMPTS, SAMPLING, [s + 100 for s in seeds]) != groups
    assert len({c.token_ids for group in groups for c in group}) > 6, "groups share their random numbers"


def _is_asked_what_it_documents(sampler: VllmSampler) -> None:
    """vLLM takes fields it does not know without a word: every one we send must be in its own OpenAPI document."""
    document = sampler.engine.get("/openapi.json")
    sent: list[tuple[str, dict[str, object]]] = []
    complete = sampler.engine.complete
    sampler.engine.complete = lambda bodies: sent.extend(("/v1/completions", b) for b in bodies) or complete(bodies)  # type: ignore[method-assign]
    sampler.sample(PROMPTS, SAMPLING, [1, 2, 3, 4])
    sampler.score([((1, 70), (80, 90))])
    sampler.engine.complete = complete  # type: ignore[method-assign]
    sent.append(("/v1/load_lora_adapter", {"lora_name": "adapter", "lora_path": "/x", "load_inplace": True}))
    assert len(sent) == 6
    for path, body in sent:
        known = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        schema = {"components": document["components"], **known}
        jsonschema.Draft202012Validator(schema).validate(body)
        fields = document["components"]["schemas"][known["$ref"].rpartition("/")[2]]["properties"]
        assert set(body) <= set(fields), path
    for path in ("/collective_rpc", "/reset_prefix_cache", "/sleep", "/wake_up"):
        assert "post" in document["paths"][path], path


def _survives(sampler: VllmSampler, blow: signal.Signals) -> None:
    """The same request gives the same completions from the same weights, after one restart."""
    expected = sampler.sample(PROMPTS, SAMPLING, [1, 2, 3, 4])
    reasons: list[str] = []
    sampler.on_restart = reasons.append
    sampler.engine.timeout_s = 3.0
    assert sampler.engine.pid is not None
    for pid in process_host.descendants(sampler.engine.pid):
        os.kill(pid, blow)
    assert sampler.sample(PROMPTS, SAMPLING, [1, 2, 3, 4]) == expected
    assert len(reasons) == 1


@pytest.mark.slow
def test_a_frozen_engine_is_replaced(tiny_model: Path, tmp_path: Path, tiny_run) -> None:
    sampler = open_sampler(tiny_model, tmp_path, tiny_run)
    try:
        _survives(sampler, signal.SIGSTOP)
    finally:
        sampler.close()


@pytest.mark.slow
def test_a_compiled_engine_follows_the_trainer_and_comes_back_the_same(
    tiny_model: Path, tmp_path: Path, tiny_run
) -> None:
    """What was compiled for the first weights multiplies by later ones, and is the same after a kill."""
    sampler, log = open_sampler(tiny_model, tmp_path, tiny_run, compile_="always"), str(tmp_path / "engine.log")
    try:
        assert _compilation(sampler) > 0
        _proves_its_sync(sampler)
        _returns_what_it_sampled(sampler)
        _survives(sampler, signal.SIGKILL)
    finally:
        sampler.close()
    assert runs.alive(str(sampler.engine.scratch)) + runs.writing(log) == []


@pytest.mark.parametrize(("tied", "strategy"), [(True, "merged"), (False, "adapter")])
def test_tied_models_and_adapters_sync_right(tmp_path: Path, tiny_run, tied: bool, strategy: str) -> None:
    """A tied head that stays stale, or an adapter that binds nowhere, would fail the proof."""
    sampler = open_sampler(make_tiny_model(tmp_path / "model", tied=tied), tmp_path, tiny_run, strategy)
    try:
        proof = SyncProof.establish(sampler.policy, sampler, PROMPTS, "float32", seed=0)
        change(sampler.policy, 1)
        assert sampler.sync("step-1").modules == 14
        proof.check()
    finally:
        sampler.close()


@pytest.mark.slow
def test_an_engine_dies_with_its_trainer(tiny_run, tmp_path: Path) -> None:
    """kill -9 of the trainer leaves no process and no directory behind; the same command then finishes the run."""
    alone, config = tiny_run("alone", sampler="vllm", steps=4), tiny_run("killed", sampler="vllm", steps=4)
    runs.train(alone)
    before = set(Path("/dev/shm").glob("grpo-*"))
    process = runs.start(config)
    runs.wait_for_step(process, tmp_path / "killed", 2)
    scratches = set(Path("/dev/shm").glob("grpo-*")) - before
    assert scratches
    runs.kill(process)
    deadline = time.monotonic() + 30
    while runs.writing(str(tmp_path / "killed")) or any(s.exists() or runs.alive(str(s)) for s in scratches):
        assert time.monotonic() < deadline, "the engine outlived its trainer"
        time.sleep(0.2)
    runs.train(config)
    assert runs.metrics(tmp_path / "killed") == runs.metrics(tmp_path / "alone")
    assert runs.final_state(tmp_path / "killed") == runs.final_state(tmp_path / "alone")


@pytest.mark.slow
def test_a_training_needs_no_network(tiny_run, tmp_path: Path) -> None:
    """In a network namespace that has nothing but a loopback device."""
    config = tiny_run("offline", sampler="vllm", steps=2)
    script = f"ip link set lo up && exec {sys.executable} -m grpo.train {config}"
    result = subprocess.run(["unshare", "-rn", "sh", "-c", script], capture_output=True, text=True, timeout=300)
    if "unshare" in result.stderr:
        pytest.skip(f"network namespaces are not allowed here: {result.stderr}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads((tmp_path / "offline" / "result.json").read_text())["steps"] == 2
    if os.geteuid() == 0:  # in there root can become no other user
        assert "the reward function's sandbox is weak" in result.stdout


def test_a_model_the_engine_refuses_ends_in_one_message(tiny_run, tiny_model: Path, tmp_path: Path) -> None:
    config = tiny_run("refused", sampler="vllm", steps=1)
    process = runs.start(config, "data.max_prompt_tokens=4000")  # longer than the model's 256 positions
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 70
    assert "the rollout engine did not start" in output
    assert "max_position_embeddings" in output


@pytest.mark.slow
def test_a_run_in_bfloat16_is_proved_in_float32_first(
    tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two implementations agree to 1e-4 (docs/engines.md); in bf16 they differ by some hundredths of a nat. The
    second run of the kind finds that proof, and starts one engine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs.train(tiny_run("low", sampler="vllm", steps=2), "model.dtype=bfloat16")
    events = [json.loads(line) for line in (tmp_path / "low" / "events.jsonl").read_text().splitlines()]
    first, second = (event for event in events if event["event"].startswith("sync_proved"))
    assert first["event"] == "sync_proved_in_fp32"
    assert first["noise"] < 1e-4 < 1e-3 < second["noise"]
    assert (tmp_path / "low" / "engine.log").read_text().count("Started server process") == 2
    assert "proved_at" not in first
    runs.train(tiny_run("again", sampler="vllm", steps=2), "model.dtype=bfloat16")
    events = [json.loads(line) for line in (tmp_path / "again" / "events.jsonl").read_text().splitlines()]
    kept, own = (event for event in events if event["event"].startswith("sync_proved"))
    assert (kept["noise"], kept["proved_at"] < kept["time"]) == (first["noise"], True)
    assert own["noise"] == second["noise"]
    assert (tmp_path / "again" / "engine.log").read_text().count("Started server process") == 1
