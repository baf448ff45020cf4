"""What tests and benchmarks compare with, each in a place of its own below .cache/clients: other clients, TRL, Liger.

``make clients`` calls it; names of what is made on request follow it.

Idempotent: what is there stays. Standard library only.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".cache" / "clients"
PYTHON = {
    "openai-2.54.0": "openai==2.54.0",
    "openai-3.54.0": "openai==3.54.0",
    "boto3-1.35.70": "boto3==1.35.70",
    "awscli": "awscli==1.46.3",
}
"""Each with an environment of its own."""
NODE = "openai@6"
"""The last major version for Node.js 20."""
AXE = "axe-core@4"
"""Judges pages for screen readers and keyboards."""
SOURCES = {"trl": "trl==1.16.0", "liger": "liger-kernel==0.8.5"}
"""Alone: what they need is in our own environment."""
ON_REQUEST = {
    "notebooks": "ipykernel boto3 openai httpx colorama tiktoken aws-bedrock-token-generator datasets matplotlib",
}
"""What AWS's notebooks need beside what they install themselves; ``python scripts/clients.py notebooks`` makes it."""


def main() -> int:
    HOME.mkdir(parents=True, exist_ok=True)
    for name, package in (PYTHON | {name: ON_REQUEST[name] for name in sys.argv[1:]}).items():
        python = HOME / name
        if not (python / "ready").exists():
            shutil.rmtree(python, ignore_errors=True)
            run(name, [sys.executable, "-m", "venv", str(python)])
            run(name, [str(python / "bin" / "python"), "-m", "pip", "install", "-q", *package.split()])
            (python / "ready").touch()
    node = HOME / "node"
    if shutil.which("npm") and not (node / "ready").exists():
        shutil.rmtree(node, ignore_errors=True)
        node.mkdir()
        run("openai-node", ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(node), NODE])
        (node / "ready").touch()
    axe = HOME / "axe"
    if shutil.which("npm") and not (axe / "ready").exists():
        shutil.rmtree(axe, ignore_errors=True)
        axe.mkdir()
        run("axe-core", ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(axe), AXE])
        (axe / "ready").touch()
    if node.exists():
        shutil.copy(ROOT / "tests" / "clients" / "scenario.mjs", node / "scenario.mjs")
    for name, package in SOURCES.items():
        place = HOME / name
        if not (place / "ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            run(name, [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place), package])
            (place / "ready").touch()
    return 0


def run(name: str, command: list[str]) -> None:
    print(f"== {name}: {' '.join(command[-3:])}", flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
