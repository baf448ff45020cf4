"""Metrics for TensorBoard: read back with TensorBoard's own reader; after a crash every step is there once."""

import math
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from grpo.sinks import TensorBoard, numbers

import runs


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(directory)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_run_can_be_read(tiny_run, tmp_path: Path) -> None:
    """Killed in the middle: as many points as steps, each the one in metrics.jsonl."""
    config = tiny_run("run", steps=6)
    process = runs.start(config)
    runs.wait_for_step(process, tmp_path / "run", 3)
    runs.kill(process)
    runs.train(config)
    found = curves(tmp_path / "run" / "tensorboard")
    lines = runs.metrics(tmp_path / "run")
    for name in ("critic_rewards_mean", "actor_grad_norm", "sampler_gap_max"):
        assert [step for step, _ in found[name]] == list(range(6))
        assert all(math.isclose(v, m[name], rel_tol=1e-6) for (_, v), m in zip(found[name], lines, strict=True))


def test_it_can_be_left_out(tiny_run, tmp_path: Path) -> None:
    runs.train(tiny_run("run", steps=1), "run.tensorboard=false")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_what_can_be_drawn() -> None:
    record = {"step": 2, "a": 1, "b": None, "c": float("nan"), "d": [1], "e": "x", "f": {"g": 0.5, "h": "y"}, "i": True}
    assert dict(numbers(record)) == {"step": 2.0, "a": 1.0, "f/g": 0.5}


def test_parts_by_name(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path / "t", [{"step": 0, "reward_parts": {"math": 0.25}}])
    sink.step({"step": 1, "reward_parts": {"math": 0.5}})
    sink.close()
    assert curves(tmp_path / "t") == {"reward_parts/math": [(0, 0.25), (1, 0.5)], "step": [(0, 0.0), (1, 1.0)]}
