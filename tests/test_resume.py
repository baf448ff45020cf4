"""Exact resume: a run killed at any moment ends with the same bytes as one that was left alone. Real processes."""

import json
import random
import time
from pathlib import Path

import pytest

import runs

STEPS = 6


@pytest.mark.slow
def test_killed_at_random_moments_equals_left_alone(tiny_run, tmp_path: Path) -> None:
    alone = tiny_run("alone", steps=STEPS)
    runs.train(alone)
    config = tiny_run("killed", steps=STEPS)
    rng = random.Random(0)
    kills = 0
    for step in (1, 2, 4, 5):
        process = runs.start(config)
        runs.wait_for_step(process, tmp_path / "killed", step)
        time.sleep(rng.uniform(0, 0.5))  # anywhere in the next step: sampling, scoring, update, checkpoint
        if process.poll() is None:
            runs.kill(process)
            kills += 1
    runs.train(config)
    assert kills >= 3
    assert runs.metrics(tmp_path / "killed") == runs.metrics(tmp_path / "alone")
    assert runs.final_state(tmp_path / "killed") == runs.final_state(tmp_path / "alone")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("alone", "killed")]
    for field in ("base", "tuned", "verdict", "steps"):
        assert results[0][field] == results[1][field]


@pytest.mark.slow
def test_more_steps_go_on_from_the_finished_run(tiny_run, tmp_path: Path) -> None:
    whole, parts = tiny_run("whole", steps=4), tiny_run("parts", steps=4)
    runs.train(whole)
    runs.train(parts, "run.steps=2")
    runs.train(parts)
    # the run of two steps ended with an evaluation after step 2, which the other did not make
    projection = [
        [{k: v for k, v in m.items() if "heldout" not in k} for m in runs.metrics(tmp_path / n)]
        for n in ("whole", "parts")
    ]
    for line in projection[0] + projection[1]:
        line.pop("status")
    assert projection[0] == projection[1]
    assert runs.final_state(tmp_path / "whole") == runs.final_state(tmp_path / "parts")


def test_a_torn_metrics_line_and_checkpoint_are_ignored(tiny_run, tmp_path: Path) -> None:
    config = tiny_run("torn", steps=3)
    runs.train(config, "run.steps=2")
    run = tmp_path / "torn"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "critic_rew')
    (run / "checkpoints" / "step_000003.partial").mkdir()
    (run / "checkpoints" / "step_000007").mkdir()  # no manifest: not a checkpoint
    runs.train(config)
    assert [m["step"] for m in runs.metrics(run)] == [0, 1, 2]


def test_a_changed_configuration_is_refused(tiny_run, tmp_path: Path) -> None:
    config = tiny_run("same", steps=1)
    runs.train(config)
    process = runs.start(config, "update.learning_rate=1e-4")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 65
    assert "another configuration" in output
    assert "Traceback" not in output


def test_edited_prompts_are_another_configuration(tiny_run, tmp_path: Path) -> None:
    config = tiny_run("edited", steps=1)
    runs.train(config)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "new"}]}\n')
    process = runs.start(config, "run.steps=2")
    assert "another configuration" in process.communicate(timeout=120)[0]


def test_two_trainers_in_one_directory_are_refused(tiny_run, tmp_path: Path) -> None:
    config = tiny_run("twice", steps=50)
    first = runs.start(config)
    runs.wait_for_step(first, tmp_path / "twice", 1)
    second = runs.start(config)
    output, _ = second.communicate(timeout=120)
    runs.kill(first)
    assert second.returncode == 65
    assert "another process is training in this directory" in output


def test_a_damaged_checkpoint_is_refused(tiny_run, tmp_path: Path) -> None:
    config = tiny_run("damaged", steps=2)
    runs.train(config, "run.steps=1")
    target = next((tmp_path / "damaged" / "checkpoints").glob("step_*")) / "trainer.safetensors"
    content = bytearray(target.read_bytes())
    content[-1] ^= 1
    target.write_bytes(content)
    process = runs.start(config)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 65
    assert "trainer.safetensors changed since it was written" in output
