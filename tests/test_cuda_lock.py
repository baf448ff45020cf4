"""The CUDA set-up resolves, for both Pythons, to the versions it pins; nothing is installed. Needs a package index."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PINNED = {"vllm": "0.32.0", "torch": "2.13.0", "triton": "3.7.1"}
"""vLLM's kernels are built for one torch, and torch's compiler for one triton."""


@pytest.mark.long
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_cuda_packages_resolve(tmp_path: Path, python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cuda"]]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
    command += ["--only-binary", ":all:", "--python-version", python, "--target", str(tmp_path / "nowhere")]
    done = subprocess.run([*command, "--report", str(report), *wanted], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {
        # without the build: a machine's own index may prefer 2.13.0+cpu
        item["metadata"]["name"].lower(): item["metadata"]["version"].partition("+")[0]
        for item in json.loads(report.read_text())["install"]
    }
    assert {name: found[name] for name in PINNED} == PINNED
    assert not (tmp_path / "nowhere").exists()
