"""A reward function tried before a job depends on it: one that cannot start, samples that take too long."""

from pathlib import Path

import pytest

from grpo.server import trial
from grpo.server.errors import Invalid

LENGTHS = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": len(s["messages"][-1]["content"])} for s in event]
"""


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    section = {"file": str(tmp_path / "nowhere.py")}
    tried = trial.try_all(section, [("x", {})], tmp_path / "log")
    assert tried.trials == []
    assert tried.sandbox is None
    assert "nowhere.py" in str(tried.error)
    assert "nowhere.py" in str(trial.try_out(section, "x", {}, tmp_path / "log").reward.error)
    assert trial.try_all({"unheard": 1}, [("x", {})], tmp_path / "log").error


def test_samples_are_scored_one_by_one_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lengths.py").write_text(LENGTHS)
    section = {"file": str(tmp_path / "lengths.py")}
    tried = trial.try_all(section, [("x", {}), ("yy", {"reference_answer": 1})], tmp_path / "log")
    assert [one.reward.value for one in tried.trials] == [1.0, 2.0]
    monkeypatch.setattr(trial, "LONGEST_S", -1.0)
    tried = trial.try_all(section, [("x", {}), ("y", {})], tmp_path / "log")
    assert [one.reward.value for one in tried.trials] == [None, None]
    assert "not tried" in str(tried.trials[0].reward.error)


def test_a_row_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="expected a list"):
        trial.try_all({}, [("x", {"messages": "hello"})], tmp_path / "log")
