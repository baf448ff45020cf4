"""Driving real trainings as processes: start, kill, read what they left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

TIMES = (
    *("seconds", "seconds_sampling", "seconds_scoring", "seconds_slowest_call", "seconds_update", "sync_seconds"),
    *("tokens_per_second", "memory_peak_gib"),
)
"""Fields of a metrics line that tell what a step took; everything else must repeat exactly."""


def start(config: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "grpo.train", str(config), *overrides]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> str:
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def train(config: Path, *overrides: str) -> str:
    return finish(start(config, *overrides))


def steps_done(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int, timeout: float = 600) -> None:
    deadline = time.monotonic() + timeout
    while steps_done(run) < step:
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > deadline:
            kill(process)
            raise AssertionError(f"{run}: no step {step} within {timeout} s")
        time.sleep(0.02)


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def metrics(run: Path) -> list[dict[str, Any]]:
    """All steps without the fields that tell time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def final_state(run: Path) -> dict[str, bytes]:
    """Every tensor of the newest checkpoint, adapter and optimizer, as bytes."""
    newest = sorted((run / "checkpoints").glob("step_??????"))[-1]
    return {name: value.tobytes() for name, value in load_file(newest / "trainer.safetensors").items()}


def alive(marker: str) -> list[int]:
    """Processes whose command line names ``marker``."""
    return [pid for pid, words, _ in _processes() if marker in words]


def writing(marker: str) -> list[int]:
    """Processes whose errors go to a file that ``marker`` names: vLLM's core renames itself, so that nothing else tells
    whose it is."""
    return [pid for pid, _, errors in _processes() if marker in errors]


def _processes() -> Iterator[tuple[int, str, str]]:
    """Each that can be looked at: its command line, and where its errors go."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, errors = (process / "cmdline").read_bytes(), os.readlink(process / "fd" / "2")
        except OSError:  # gone, or without files: what has ended and was not waited for
            continue
        yield int(process.name), os.fsdecode(words), errors
