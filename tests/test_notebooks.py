"""AWS's sample notebooks, where there is a copy of them: GRPO_AWS_SAMPLES names it, else it is fetched.

They are Amazon's and not part of this project; benchmarks/notebooks/result.json has the last whole run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import notebooks
import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "notebooks" / "result.json"
FOLDER = "custom-models/bedrock-reinforcement-fine-tuning"
SOURCE = "https://github.com/aws-samples/amazon-bedrock-samples"
NAMES = {"gptoss_gsm8k_rft", "qwen_gsm8k_rft", "nova_gsm8k_rft", "nova_finqa_rft", "nova_pandalm_rft"}


def samples(work: Path) -> Path:
    """A copy of the samples; skips where none can be had."""
    if named := os.environ.get("GRPO_AWS_SAMPLES"):
        return Path(named)
    clone = ["git", "clone", "--quiet", "--depth", "1", "--filter=blob:none", "--sparse", SOURCE, str(work / "repo")]
    try:
        done = subprocess.run(clone, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("AWS's samples cannot be fetched (no answer in a minute); GRPO_AWS_SAMPLES names a copy")
    if done.returncode:
        pytest.skip(f"AWS's samples cannot be fetched ({done.stderr.strip()[:100]}); GRPO_AWS_SAMPLES names a copy")
    subprocess.run(["git", "-C", str(work / "repo"), "sparse-checkout", "set", FOLDER], check=True, timeout=120)
    return work / "repo" / FOLDER


@pytest.mark.long
def test_the_samples_run_from_the_first_to_the_last_cell(tmp_path: Path) -> None:
    """GRPO_NOTEBOOK_ARGS: where data lie that cannot be downloaded."""
    if not notebooks.ENVIRONMENT.exists():
        pytest.skip("their environment is missing: make notebooks makes it")
    out = tmp_path / "result.json"
    words = [sys.executable, str(ROOT / "tests" / "notebooks.py"), str(samples(tmp_path)), "--out", str(out)]
    words += os.environ.get("GRPO_NOTEBOOK_ARGS", "").split()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert {Path(found["notebook"]).stem for found in json.loads(out.read_text())["notebooks"]} == NAMES


def test_all_five_ran_whole() -> None:
    """Each notebook to its last cell, with at most two lines changed; the plots are there."""
    found = json.loads(RESULT.read_text())["notebooks"]
    assert {Path(one["notebook"]).stem for one in found} == NAMES
    for one in found:
        assert one["error"] is None
        assert one["cells"] == one["of"] > 5
        assert 1 <= len(one["changed"]) <= 2
        assert one["last"]
        assert one["images"] >= (2 if "nova" not in one["notebook"] else 0)


def test_what_is_changed_is_told() -> None:
    source = 'A = 1\nMANTLE_ENDPOINT = f"https://bedrock-mantle.{R}.api.aws"\nS3_BUCKET = "your-bucket-name"\n'
    changed, lines = notebooks.change(source, "http://127.0.0.1:1")
    assert changed.splitlines() == ["A = 1", *lines]
    assert lines == ['MANTLE_ENDPOINT = "http://127.0.0.1:1"', f'S3_BUCKET = "{notebooks.BUCKET}"']
    assert notebooks.change("assert S3_BUCKET != 1\n", "x") == ("assert S3_BUCKET != 1\n", [])
