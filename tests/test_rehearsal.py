"""Whether GRPO can learn from what the base model does: shares by hand, and the command on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

from grpo.rehearsal import rehearse
from grpo.types import Completion, Group, Prompt, Reward


def group(*pairs: tuple[float | None, str]) -> Group:
    """(reward, finish reason) of each completion, of two tokens."""
    return Group(
        prompt=Prompt(index=0, messages=(), token_ids=(1,)),
        completions=tuple(
            Completion(token_ids=(5, 6), logprobs=(-0.1, -0.1), text="x", finish_reason=reason) for _, reason in pairs
        ),
        rewards=tuple(Reward(value=value, error=None if value is not None else "no key") for value, _ in pairs),
    )


def test_shares_by_hand() -> None:
    groups = [
        group((1.0, "stop"), (0.0, "stop")),
        group((0.5, "length"), (0.5, "stop")),
        group((None, "stop"), (1.0, "length")),
    ]
    found = rehearse(groups, seconds=3.0, prompts_per_step=12)
    assert (found.prompts, found.completions, found.tokens) == (3, 6, 2.0)
    assert (found.mean, found.lowest, found.highest) == (0.6, 0.0, 1.0)
    assert found.zero_variance_share == 2 / 3
    assert abs(found.useful_groups - 4) < 1e-9
    assert abs(found.error_share - 1 / 6) < 1e-9
    assert abs(found.truncated_share - 1 / 3) < 1e-9
    assert found.seconds == 0.5
    assert found.can_learn
    assert [finding.cause for finding in found.findings] == ["17% of the completions could not be scored"]


def test_why_not() -> None:
    causes = {
        "not be scored, first: no key": [
            group((None, "stop"), (None, "stop"), (None, "stop")),
            group((1.0, "stop"), (0.0, "stop")),
        ],
        "cut at the limit": [group((0.0, "length"), (0.0, "length"))],
        "every completion gets the reward 0": [group((0.0, "stop"), (0.0, "stop"))] * 3,
        "all completions of a prompt get the same reward": [
            group((0.0, "stop"), (0.0, "stop")),
            group((1.0, "stop"), (1.0, "stop")),
        ],
    }
    for cause, groups in causes.items():
        found = rehearse(groups, 1.0, 8)
        assert not found.can_learn
        assert any(cause in finding.cause for finding in found.findings), found.findings


def test_few_useful_groups_are_said() -> None:
    silent = [group((0.0, "stop"), (0.0, "stop"))] * 7
    found = rehearse([*silent, group((0.0, "stop"), (1.0, "stop"))], 1.0, 8)
    assert found.can_learn
    assert found.findings[0].cause == "a step has 1.0 groups whose rewards differ, on average"


ALWAYS_ZERO = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": 0} for s in event]
"""


def run(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grpo", "grader", "test", str(config), "--prompts", "4", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command(tiny_run, tmp_path: Path) -> None:
    config = tiny_run("unused")
    done = run(config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 completions of 4 prompts by the base model" in done.stdout
    assert "GRPO can learn from this" in done.stdout
    (tmp_path / "reward.py").write_text(ALWAYS_ZERO)
    done = run(config, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["can_learn"], found["mean"]) == (False, 0.0)
    assert "every completion gets the reward 0" in [finding["cause"] for finding in found["findings"]]
    assert not (tmp_path / "unused").exists(), "a rehearsal leaves no run behind"
