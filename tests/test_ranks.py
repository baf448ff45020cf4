"""Two ranks make the update of one: the same run twice, with the model whole on each rank, and split over both."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from grpo import engine
from grpo.config import load
from grpo.errors import FAILS_AGAIN, ConfigError

import families
import runs


def on_two_ranks(*words: str) -> None:
    """On gloo; ``accelerate launch --cpu`` would start a single process, whatever number is asked for."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def ranks_of(run: Path) -> int:
    """As the run itself says."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (started,) = [event for event in events if event["event"] == "start"]
    return int(started["ranks"])


def adapter(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "checkpoints" / "step_000003" / "trainer.safetensors")


def apart(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> float:
    """Root mean square: the largest difference is that of one weight whose gradient is all rounding."""
    away = np.concatenate([(one[name] - two[name]).ravel() for name in one if name.startswith("adapter/")])
    return float(np.sqrt(np.mean(away.astype(np.float64) ** 2)))


@pytest.mark.slow
def test_two_ranks_equal_one(tiny_run, tmp_path: Path) -> None:
    """Gradients of the first step to fp32 rounding. Then Adam amplifies what the order of sums leaves; how much that
    may be a single rank shows, with one row a micro-batch, which sums in another order, too."""
    runs.train(tiny_run("one", steps=3))
    runs.train(tiny_run("other", steps=3), "update.tokens_per_microbatch=64")
    on_two_ranks("-m", "grpo.train", str(tiny_run("two", steps=3)))
    assert ranks_of(tmp_path / "two") == 2
    names = ("critic_rewards_mean", "actor_pg_loss", "actor_grad_norm", "actor_entropy", "trained_tokens")
    for a, b in zip(runs.metrics(tmp_path / "one"), runs.metrics(tmp_path / "two"), strict=True):
        for name in names:
            assert a[name] == pytest.approx(b[name], rel=1e-3 if a["step"] else 1e-5, abs=1e-7), (a["step"], name)
    one, other, two = (adapter(tmp_path / name) for name in ("one", "other", "two"))
    assert 0 < apart(one, two) < 5 * apart(one, other)
    assert json.loads((tmp_path / "two" / "result.json").read_text())["steps"] == 3


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_a_split_base_makes_the_same_update(tmp_path: Path, family: str) -> None:
    """FSDP2 over two gloo ranks against one whole rank, with unequal shares, recomputed passes and a KL term."""
    (tmp_path / "model").mkdir()
    model = families.make(family, tmp_path / "model")
    script = str(Path(__file__).parent / "split_update.py")
    subprocess.run([sys.executable, script, str(model), str(tmp_path / "one.safetensors")], check=True, timeout=300)
    on_two_ranks(script, str(model), str(tmp_path / "two.safetensors"))
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["kept"] * 2 == one["kept"]
    assert np.array(two["stats"]) == pytest.approx(np.array(one["stats"]), rel=1e-4)
    states = [load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    assert max(float(np.abs(states[0][k] - states[1][k]).max()) for k in states[0]) < 1e-4


def test_a_rank_short_of_memory_repeats_alone(tmp_path: Path) -> None:
    """The second of two gloo ranks; together they make the update of one that has enough."""
    (tmp_path / "model").mkdir()
    model = families.make("llama", tmp_path / "model")
    script = str(Path(__file__).parent / "split_update.py")
    words = [script, str(model), str(tmp_path / "one.safetensors"), "short"]
    subprocess.run([sys.executable, *words], check=True, timeout=300)
    on_two_ranks(script, str(model), str(tmp_path / "two.safetensors"), "short")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert np.array(two["stats"]) == pytest.approx(np.array(one["stats"]), rel=1e-4)
    states = [load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    assert max(float(np.abs(states[0][k] - states[1][k]).max()) for k in states[0]) < 1e-4


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
def test_a_run_with_a_split_base(tiny_run, tmp_path: Path) -> None:
    """Two ranks, neither with the whole model; vLLM gets the adapter, and both make the passes of every proof."""
    one, two = tiny_run("one", sampler="vllm", steps=3), tiny_run("two", sampler="vllm", steps=3)
    runs.train(one, "rollout.sync=adapter")
    on_two_ranks("-m", "grpo.train", str(two), "update.shard_base=true")
    assert ranks_of(tmp_path / "two") == 2
    for a, b in zip(runs.metrics(tmp_path / "one"), runs.metrics(tmp_path / "two"), strict=True):
        for name in ("critic_rewards_mean", "actor_pg_loss", "actor_grad_norm", "sync_modules", "sync_change"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-6), (a["step"], name)
    assert json.loads((tmp_path / "two" / "result.json").read_text())["steps"] == 3


def test_one_rank_has_nothing_to_split(tiny_run) -> None:
    result = runs.start(tiny_run("run", sampler="vllm", steps=1), "update.shard_base=true")
    output, _ = result.communicate(timeout=120)
    assert result.returncode == FAILS_AGAIN
    assert "start several with accelerate launch" in output


@pytest.mark.parametrize("setting", ["rollout.sampler=transformers", "rollout.sync=merged"])
def test_what_cannot_go_with_a_split_base(tiny_run, setting: str) -> None:
    with pytest.raises(ConfigError, match="no rank has the whole model"):
        load(tiny_run("run", sampler="vllm"), ["update.shard_base=true", setting])
