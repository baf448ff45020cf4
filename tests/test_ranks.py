"""Two ranks make the update of one: the same run under ``accelerate launch``, on gloo."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import runs


def test_two_ranks_equal_one(tiny_run, tmp_path: Path) -> None:
    """Sums are formed in another order, so equal to fp32 rounding: three steps of Adam at 5e-3 amplify it."""
    one, two = tiny_run("one", steps=3), tiny_run("two", steps=3)
    runs.train(one)
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0", "-m"]
    command = [sys.executable, "-m", *launch, "grpo.train", str(two)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    for a, b in zip(runs.metrics(tmp_path / "one"), runs.metrics(tmp_path / "two"), strict=True):
        for name in ("critic_rewards_mean", "actor_pg_loss", "actor_grad_norm", "actor_entropy", "trained_tokens"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-6), (a["step"], name)
    states = [load_file(tmp_path / n / "checkpoints" / "step_000003" / "trainer.safetensors") for n in ("one", "two")]
    worst = max(float(np.abs(states[0][k] - states[1][k]).max()) for k in states[0] if k.startswith("adapter/"))
    assert worst < 1e-4
    assert json.loads((tmp_path / "two" / "result.json").read_text())["steps"] == 3
