"""The benchmarks in small. In full: make bench-convergence, make gpu-proof."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grpo import engine
from grpo.flatness import Series

import families

FOLDER = str(Path(__file__).resolve().parent.parent / "benchmarks" / "convergence")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FOLDER)
    import bank
    import measures
    import rivals

    yield bank, measures, rivals
    for name in ("bank", "measures", "rivals"):
        sys.modules.pop(name)


def test_only_our_rule_leaves_a_rising_line_alone(modules) -> None:
    bank, measures, rivals = modules
    rewards, steps = bank.observe("line", "ar 0.5", 20, np.random.default_rng(0))
    course = measures.follow(Series(rewards_RT=rewards, steps_T=steps))
    assert (course.end == rivals.NEVER).all()
    for rule in (rivals.ema_patience, rivals.early_stopping, rivals.std_plateau, rivals.mann_kendall):
        assert measures.stopping("line", rule(rewards))["false"] > 0.5


def test_ends_are_counted_by_what_was_still_to_come(modules) -> None:
    _, measures, rivals = modules
    # fast gains 0.8 exp(-t / 40) (1 - exp(-1 / 2)) over the next 20 steps: 0.02 at t = 110.2
    result = measures.stopping("fast", np.array([100, 110, 112, rivals.NEVER]))
    assert (result["false"], result["stopped"], result["median"]) == (0.5, 0.75, 111.0)
    # Clopper and Pearson for 2 of 4 at one-sided 95 %: 0.9024 (printed tables)
    assert result["false_upper"] == pytest.approx(0.9024, abs=1e-4)


def test_alarms_and_given_up_by_hand(modules) -> None:
    bank, measures, rivals = modules
    # regression falls by 0.0015 a step from step 200 on: by 0.02 at 214, by 0.1 at 267
    assert bank.fallen("regression", 0.02) == pytest.approx(214, abs=2)
    found = measures.alarms("regression", np.array([150, 260, 290, 310, rivals.NEVER]))
    assert (found["false_alarm"], found["heard_in_time"]) == (0.2, 0.6)
    rewards = np.tile(bank.curves()["line"], (3, 1))
    lost = measures.given_up("line", rewards, np.arange(600.0), np.full(3, rivals.NEVER))
    # the last candidate is step 595 of 599: 4 steps of 0.0012 out of a rise of 599
    assert lost["given_up"] == pytest.approx(4 / 599)
    assert lost["still_to_come"] == 0


@pytest.mark.slow
def test_the_gpu_proof_runs_on_a_cpu_but_for_its_memory(tmp_path: Path) -> None:
    """On a card the same file is filled with its name and figures."""
    model = families.make("qwen3", tmp_path / "model")
    command = [sys.executable, "benchmarks/gpu/proof.py", "--device", "cpu", "--model", str(model), "--tokens", "2048"]
    done = subprocess.run(
        [*command, "--groups", "1", "--trained", str(model), "--out", str(tmp_path / "gpu.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["machine"]["card"] == "none (CPU)"
    assert found["kernel"]["torch.float32"]["logprob"] < 1e-4
    assert [u["recompute"] for u in found["updates"]] == [False, True]
    assert all(u["tokens_per_second"] > 0 and u["peak_gib"] is None for u in found["updates"])
    assert found["trainings"].keys() == ({"transformers", "vllm"} if engine.installed() else {"transformers"})
    assert all(t["sync_proved"] < 1e-4 and t["sampled_tokens"] > 0 for t in found["trainings"].values()), found
