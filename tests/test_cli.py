"""The command line on a real finished run, and how errors look to a person."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.cli import adapter
from grpo.errors import ConfigError

import runs


def grpo(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "grpo", *words], input=stdin, capture_output=True, text=True, timeout=200
    )


def test_a_finished_run(tiny_run, tmp_path: Path) -> None:
    config, run = tiny_run("done", steps=3), tmp_path / "done"
    first = grpo("train", str(config))
    assert first.returncode == 0, first.stderr
    for promised in (
        "budget_exhausted after 3 steps",
        "Mean test reward",
        "Before and after",
        "curve.png",
        "grpo chat",
    ):
        assert promised in first.stdout
    again = grpo("train", str(config))
    assert "step    1" not in again.stdout
    assert "Mean test reward" in again.stdout, "a finished run is shown again, not trained again"
    result = json.loads((run / "result.json").read_text())
    assert {"base", "tuned", "verdict", "delta", "alpha", "steps", "seconds", "seed", "sampler", "adapter"} <= set(
        result
    )
    assert set(result["base"]) == {"mean", "low", "high", "n"}

    scored = json.loads(grpo("eval", str(run), "--json", "--completions", "2").stdout)
    assert scored["mean"] == pytest.approx(result["tuned"]["mean"]), "same adapter, prompts and seeds"
    assert json.loads(grpo("eval", str(run), "--json", "--base", "--completions", "2").stdout)["n"] == 8
    assert Path(grpo("plot", str(run), "--out", str(tmp_path / "c.png")).stdout.strip()).read_bytes()[:4] == b"\x89PNG"
    assert grpo("chat", str(run), "-m", "say 1", "--max-tokens", "4").returncode == 0
    spoken = grpo("chat", str(run), "--max-tokens", "4", stdin="say 2\n\n")
    assert "An empty line ends the conversation." in spoken.stdout
    assert f"mean {result['tuned']['mean']:.3f}, 95 % interval" in grpo("eval", str(run), "--completions", "2").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "absent.toml"], "absent.toml: no such configuration file"),
        (["chat", "absent"], "absent: not a run directory"),
        (["plot", "absent"], "absent: not a run directory"),
    ],
)
def test_errors_are_one_message(words: list[str], message: str) -> None:
    result = grpo(*words)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=nowhere", "nowhere: no config.json there"),
        ("data.train=nowhere.jsonl", "nowhere.jsonl: cannot be read"),
        ("reward.file=nowhere.py", "nowhere.py: no such reward file"),
        ("lora.targets=['nothing']", "does not fit this model"),
        ("data.max_prompt_tokens=2", "more than data.max_prompt_tokens = 2"),
    ],
)
def test_bad_input_ends_in_one_message(tiny_run, override: str, message: str) -> None:
    result = grpo("train", str(tiny_run("bad", steps=1)), "--set", override)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reward_that_always_fails_stops_the_run_with_its_reason(tiny_run, tmp_path: Path) -> None:
    config = tiny_run("failing", steps=2)
    (tmp_path / "reward.py").write_text("def lambda_handler(event, context):\n    raise KeyError('answer')")
    result = grpo("train", str(config))
    assert result.returncode == 1
    assert "16 of 16 completions of step 1 could not be scored" in result.stderr
    assert "KeyError: 'answer'" in result.stderr


def test_a_full_disk_ends_in_one_message_and_the_run_goes_on_later(tiny_run, tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: writing the checkpoint fails with an OSError either way."""
    config = tiny_run("full", steps=3)
    command = f"ulimit -f 20; exec {sys.executable} -m grpo train {config}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=200)
    assert result.returncode == 1, result.stderr
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr
    runs.train(config)
    assert [m["step"] for m in runs.metrics(tmp_path / "full")] == [0, 1, 2]


def test_the_adapter_of_a_run_is_the_chosen_one_or_that_of_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        adapter(tmp_path)
    for step, complete in ((1, True), (2, True), (3, False)):
        checkpoint = tmp_path / "checkpoints" / f"step_{step:06d}"
        checkpoint.mkdir(parents=True)
        if complete:
            (checkpoint / "manifest.json").touch()
    assert adapter(tmp_path).name == "step_000002"
    (tmp_path / "result.json").write_text('{"adapter": "checkpoints/step_000001"}')
    assert adapter(tmp_path).name == "step_000001"
    (tmp_path / "result.json").write_text('{"adapter": null}')
    assert adapter(tmp_path).name == "step_000002", "the base model was better, but someone asks for an adapter"
