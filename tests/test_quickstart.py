"""docs/quickstart.md as a newcomer follows it: its commands, its code, the demo model, vLLM for training and chat."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpo import engine

from conftest import DEMO_MODEL
from servers import KEY, Served

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.long,
    pytest.mark.engine,
    pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how"),
    pytest.mark.skipif(not (DEMO_MODEL / "config.json").exists(), reason="the demo model is missing; `make setup`"),
]


def test_quickstart(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "quickstart.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert ".venv/bin/grpo lambda deploy adds configs/demo/reward.py" in page
    served = Served(tmp_path / "data", DEMO_MODEL, "--sampler", "auto")
    try:
        served.cli("lambda", "deploy", "adds", str(ROOT / "configs" / "demo" / "reward.py"))
        environment = os.environ | {"OPENAI_BASE_URL": served.url, "OPENAI_API_KEY": KEY}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    finally:
        served.stop()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rewards = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("Step ")]
    assert len(rewards) == 22  # 264 rows / 12
    # base mean 0.1, standard error of four steps of 96 completions about 0.02: a rise by 0.3 is no luck
    assert sum(rewards[-4:]) / 4 > sum(rewards[:2]) / 2 + 0.3
    assert any(line.startswith("succeeded ft:smollm2-135m-instruct:local:") for line in lines)
    assert lines[-1].strip()
