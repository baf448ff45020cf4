"""Checkpoints: complete or absent. Touches: disk.

    checkpoints/step_000010/
        adapter_model.safetensors, adapter_config.json   the adapter, in PEFT's format
        trainer.safetensors                              Adam's moments, and the adapter under the trainer's names
        history.json                                     what the stop rule has seen: its whole state
        manifest.json                                    step, digests of all files; written last

A directory is filled under a temporary name, synced and renamed; one without a valid manifest does not count. All
tensors are safetensors: loading a checkpoint runs no code.
"""

import json
import os
import shutil
from collections.abc import Sequence as Seq
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo import manifest
from grpo.errors import CheckpointError, StorageError
from grpo.manifest import Checkpoint, complete, digest, verify
from grpo.points import Point, dump, parse
from grpo.policy import Policy
from grpo.runlog import sync_directory, write_atomic
from grpo.update import Updater

ADAPTER, OPTIMIZER = "adapter/", "optimizer/"
HISTORY = "history.json"


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path) -> None:
        self.run, self.directory = run, run / "checkpoints"
        self.directory.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove what a crash left unfinished; for the one process that owns the run."""
        for leftover in self.directory.glob("*.partial"):
            shutil.rmtree(leftover)

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step:06d}"

    def save(self, step: int, policy: Policy, updater: Updater, points: Seq[Point]) -> Checkpoint:
        """Write the state after ``step`` updates. It appears whole, or not at all. Raises StorageError."""
        partial = self.path(step).with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _write_tensors(partial, policy, updater)
        except SafetensorError as error:
            raise StorageError(
                f"{partial}: cannot be written: {error}. Free some space; the same command goes on from the last "
                "complete step"
            ) from None
        (partial / HISTORY).write_text(json.dumps([dump(point) for point in points]) + "\n")
        files = {file.name: digest(file) for file in sorted(partial.iterdir())}
        content = {"format": 1, "step": step, "policy": policy.digest(), "files": files}
        for name in files:
            _sync_file(partial / name)
        write_atomic(partial / manifest.NAME, json.dumps(content, indent=1) + "\n")
        shutil.rmtree(self.path(step), ignore_errors=True)
        partial.rename(self.path(step))
        sync_directory(self.directory)
        return Checkpoint(self.path(step), step)

    def list(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        return complete(self.run)

    def newest(self) -> Checkpoint | None:
        found = self.list()
        return found[-1] if found else None

    def prune(self, keep: set[int]) -> None:
        """Remove all checkpoints but the newest and those of the steps in ``keep``."""
        for checkpoint in self.list()[:-1]:
            if checkpoint.step not in keep:
                shutil.rmtree(checkpoint.path)


def _write_tensors(directory: Path, policy: Policy, updater: Updater) -> None:
    policy.save_adapter(directory)
    state = {ADAPTER + name: value for name, value in policy.adapter_state().items()}
    state |= {OPTIMIZER + name: value for name, value in updater.optimizer_state().items()}
    save_file(state, directory / "trainer.safetensors")


def restore(checkpoint: Checkpoint, policy: Policy, updater: Updater | None) -> None:
    """Load a checkpoint after checking every file's digest. Raises CheckpointError when one differs."""
    verify(checkpoint)
    state = load_file(checkpoint.path / "trainer.safetensors")
    policy.load_adapter_state(_part(state, ADAPTER))
    if updater is not None:
        updater.load_optimizer_state(_part(state, OPTIMIZER))


def history(checkpoint: Checkpoint) -> list[Point]:
    """The points of all steps before a checkpoint that ``verify`` accepted. Raises CheckpointError."""
    try:
        return [parse(values) for values in json.loads((checkpoint.path / HISTORY).read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path}: its {HISTORY} cannot be read ({error})") from None


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
