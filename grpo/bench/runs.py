"""The runs of a protocol, one after the other. Touches: processes, disk.

Each is a training in a directory of its own, so that whatever ends this process, the same command goes on: finished
runs are left as they are, an interrupted one resumes from its last complete step.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from grpo import doctor, process_host
from grpo.bench.protocol import Protocol, Variant
from grpo.config import Config
from grpo.errors import CheckpointError, ConfigError, DataError, ModelError, SetupError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One training of a protocol."""

    variant: Variant
    seed: int
    directory: Path
    config: Config
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether it was concluded; one that is not may have steps all the same."""
        return (self.directory / "result.json").is_file()


def plan_runs(
    protocol: Protocol, out: Path, *, seeds: Seq[int] = (), variants: Seq[str] = (), overrides: Seq[str] = ()
) -> list[PlannedRun]:
    """All runs of a protocol below ``out``, or those of some seeds and variants; seed by seed, so that a matrix that is
    cut short has all variants.

    Raises ConfigError for what the protocol does not have, CheckpointError where a directory has a run with other
    settings, or one whose files have changed since.
    """
    names = [variant.name for variant in protocol.variants]
    if unknown := [name for name in variants if name not in names]:
        raise ConfigError(f"no variant {unknown[0]!r}; the protocol has {', '.join(names)}")
    chosen = [variant for variant in protocol.variants if not variants or variant.name in variants]
    return [_planned(protocol, out, v, seed, overrides) for seed in seeds or protocol.seeds for v in chosen]


def seeds_there(protocol: Protocol, out: Path) -> list[int]:
    """The protocol's seeds and those that were run besides."""
    found = [path.name.removeprefix("seed-") for v in protocol.variants for path in (out / v.name).glob("seed-*")]
    return list(dict.fromkeys((*protocol.seeds, *sorted(int(name) for name in found if name.isdigit()))))


def check(protocol: Protocol, runs: Seq[PlannedRun]) -> None:
    """What hours of training would only find out at their end, or at the start of their last run.

    Raises DataError, ModelError, ConfigError, SetupError, each with what to do.
    """
    for run in runs:
        data, model = run.config.data, run.config.model.path
        for path in (data.train, data.heldout, data.test):
            if path and not path.is_file():
                hint = protocol.prepare or f"see {protocol.config}"
                raise DataError(f"{path}: no such file. Make it with: {hint}")
        if not any(model.glob("*.safetensors")):
            raise ModelError(f"{model}: no weights there (*.safetensors). Name their directory: --set model.path=DIR")
    for name, grader in protocol.measures.items():
        if missing := [file for file in grader.files() if not file.is_file()]:
            raise ConfigError(f"measures.{name}: {missing[0]}: no such file")
    if protocol.needs == "gpu" and not doctor.gpus():
        raise SetupError("the protocol needs a GPU, and none is here; `grpo doctor` says what is")


def execute(run: PlannedRun, protocol: Protocol, ranks: int = 1) -> int:
    """Train until it is concluded, its progress on standard error; its exit code. ``ranks``: trainer processes.

    However this process ends, the training's whole tree ends with it.
    """
    # --multi_gpu is accelerate's word for a launcher of several processes; without a GPU they talk over gloo.
    several = ["--multi_gpu", "--num_processes", str(ranks), "--num_machines", "1", "--mixed_precision", "no"]
    launcher = ["-m", "accelerate.commands.launch", *several] if ranks > 1 else []
    words = [sys.executable, *launcher, "-m", "grpo.train", str(protocol.config), *run.overrides]
    with tempfile.TemporaryDirectory() as scratch:
        hosted = [sys.executable, process_host.__file__, f"{scratch}/nothing", "0", *words]
        host = subprocess.Popen(hosted, stdin=subprocess.PIPE, stdout=sys.stderr, start_new_session=True)
        try:
            return host.wait()
        finally:
            assert host.stdin
            host.stdin.close()
            host.wait()


def _planned(protocol: Protocol, out: Path, variant: Variant, seed: int, overrides: Seq[str]) -> PlannedRun:
    directory = out / variant.name / f"seed-{seed}"
    run = PlannedRun(
        variant=variant,
        seed=seed,
        directory=directory,
        config=protocol.training(variant, seed, directory, overrides),
        overrides=tuple(protocol.overrides(variant, seed, directory, overrides)),
    )
    claimed = directory / "config.json"
    if claimed.is_file() and json.loads(claimed.read_text())["digest"] != run.config.digest():
        raise CheckpointError(
            f"{directory} has a run with other settings, or of files that have changed since. Give the same --set, or "
            "choose another --out, or remove it"
        )
    return run
