"""The demo itself, cut short: the real model on the real vLLM. Its full length is `make demo`."""

import json
from pathlib import Path

import pytest

from grpo import engine

import runs
from conftest import DEMO_MODEL

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how"),
    pytest.mark.skipif(not (DEMO_MODEL / "config.json").exists(), reason="the demo model is missing; `make setup`"),
]


@pytest.mark.slow
def test_demo_cut_short_killed_and_resumed(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    (tmp_path / "few.jsonl").write_text("\n".join(Path("configs/demo/test.jsonl").read_text().splitlines()[:4]))
    options = [
        "run.steps=3",
        "rollout.prompts_per_step=4",
        "update.warmup_steps=1",
        f"data.test={tmp_path}/few.jsonl",
        f"data.heldout={tmp_path}/few.jsonl",
        f"run.dir={run}",
    ]
    process = runs.start(Path("configs/demo.toml"), *options)
    runs.wait_for_step(process, run, 1)
    runs.kill(process)
    runs.train(Path("configs/demo.toml"), *options)
    lines = runs.metrics(run)
    assert [m["step"] for m in lines] == [0, 1, 2]
    assert all(m["sampler_gap_max"] < 1e-3 for m in lines), "sampler and trainer run the same model in fp32"
    assert all(m["sync_modules"] == 210 for m in lines if m["trained_tokens"]), "30 layers, 7 linear modules each"
    seen = [m["sync_smallest_visible_fault"] for m in lines if m["sync_smallest_visible_fault"] is not None]
    assert seen
    assert max(seen) < 0.1
    result = json.loads((run / "result.json").read_text())
    assert (result["sampler"], result["steps"], result["base"]["n"]) == ("vllm (merged)", 3, 32)
    completions = [json.loads(line) for line in (run / "rollouts" / "step_000000.jsonl").read_text().splitlines()]
    assert len(completions) == 4
    assert all(len(group["completions"]) == len(group["rewards"]) == 8 for group in completions)
