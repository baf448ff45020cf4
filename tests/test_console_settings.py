"""A configuration beside its defaults and beside others, without what must not be shown; the ends of files."""

import json
import os
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from made_run import CONFIG, make, record

from grpo.config import load
from grpo.console import settings
from grpo.console.growing import LAST_BYTES, Growing, first_records, last_records
from grpo.console.index import Filter
from grpo.console.run_view import MOST_MARKS, RunView
from grpo.console.sources import Directories
from grpo.outlook import smallest_gain
from grpo.types import Completion, Group, Prompt, Reward

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def demo() -> dict[str, Any]:
    return dict(load(ROOT / "configs" / "demo.toml").model_dump(mode="json"))


def test_what_differs_from_the_defaults_is_what_the_file_says(demo: dict[str, Any]) -> None:
    """The file's own keys, read as TOML: nothing else differs, and of them only those that say the default do not."""
    found = {row["name"]: row for row in settings.against_defaults(demo)}
    assert found["update.learning_rate"] == {
        "name": "update.learning_rate",
        "value": 0.0003,
        "default": 0.0001,
        "changed": True,
    }
    text = tomllib.loads((ROOT / "configs" / "demo.toml").read_text())
    said = {f"{section}.{name}": value for section, values in text.items() for name, value in values.items()}
    changed = {name for name, row in found.items() if row["changed"]}
    assert changed <= set(said)
    assert all(found[name]["default"] == found[name]["value"] for name in set(said) - changed)
    assert not found["update.clip_high"]["changed"]
    assert not found["environment"]["changed"]
    assert found["run.dir"]["changed"], "it has no default"
    assert len(found) > 60


def test_every_setting_has_its_default(demo: dict[str, Any]) -> None:
    """A run of defaults alone differs in nothing that has one."""
    plain = {"run": {"steps": 200}, "update": {}, "rollout": {"prompts_per_step": 16}, "environment": None}
    assert [row["name"] for row in settings.against_defaults(plain) if row["changed"]] == []
    assert settings.against_defaults({"run": {"unheard": 1}})[0]["changed"] is False


def test_runs_differ_where_they_differ(demo: dict[str, Any]) -> None:
    other = json.loads(json.dumps(demo))
    other["update"]["learning_rate"] = 0.5
    del other["rollout"]["temperature"]
    assert settings.differences([demo, demo]) == []
    assert settings.differences([demo, other, demo]) == [
        {"name": "rollout.temperature", "values": [1.0, None, 1.0]},
        {"name": "update.learning_rate", "values": [0.0003, 0.5, 0.0003]},
    ]


def test_secrets_are_hidden_wherever_they_stand() -> None:
    config = {
        "reward": {
            "environment": {"JUDGE": "secret-1"},
            "options": {"api_key": "secret-2", "model": "m", "max_tokens": 7},
            "graders": [{"name": "g", "environment": {"X": "secret-3"}, "options": {"password": "secret-4"}}],
        },
        "environment": {"file": "env.py", "variables": {"TOKEN": "secret-5"}, "max_turns": 3},
        "data": {"max_prompt_tokens": 64},
    }
    text = json.dumps(settings.without_secrets(config))
    assert "secret" not in text
    assert text.count(settings.HIDDEN) == 5
    for kept in ("env.py", '"max_turns": 3', '"max_tokens": 7', '"max_prompt_tokens": 64', '"JUDGE"'):
        assert kept in text
    assert "secret" not in json.dumps(settings.against_defaults(config))


def test_the_rule_of_a_run(demo: dict[str, Any]) -> None:
    found = settings.rule(demo)
    assert (found["delta"], found["horizon"]) == (0.06, 10)
    assert found["certifiable"] == smallest_gain(load(ROOT / "configs" / "demo.toml"))
    assert settings.rule({"convergence": {"delta": 0.1}})["delta"] == 0.1
    assert "certifiable" not in settings.rule({})
    assert settings.rule({"convergence": {"of another version": 1}}) == {}


def test_ends_of_a_file(tmp_path: Path) -> None:
    """Lines longer than what is read at first, a last line that is being written, and no file at all."""
    path = tmp_path / "lines.jsonl"
    assert last_records(path, 3) == first_records(path, 3) == []
    path.write_text("")
    assert last_records(path, 3) == first_records(path, 3) == []
    told = [{"k": k, "long": "x" * LAST_BYTES} for k in range(5)]
    path.write_text("".join(json.dumps(one) + "\n" for one in told) + '{"k": 5')
    for most in (1, 2, 4, 5, 9):
        assert [one["k"] for one in last_records(path, most)] == list(range(5))[-most:]
        assert [one["k"] for one in first_records(path, most)] == list(range(5))[:most]


def test_a_run_of_many_looks_tells_some_of_them(tmp_path: Path) -> None:
    """The last one is among them, and events that are no looks are not thinned."""
    log = make(tmp_path / "run", 3, ended=False)
    for step in range(1, 1002):
        log.event("look", step=step, bound=0.5, window=16, alpha_spent=0.0)
    found = RunView(tmp_path / "run", tmp_path).details()
    assert 300 < len(found["looks"]) <= MOST_MARKS
    assert found["looks"][-1]["step"] == 1001
    assert [event["event"] for event in found["events"]] == ["start"]
    assert found["restarts"] == []
    log.event("resume", step=2)
    assert RunView(tmp_path / "run", tmp_path).details()["restarts"] == [2]


def test_alarms_are_of_runs_that_go_on(tmp_path: Path) -> None:
    """By the first and the last steps of a long run: 0.2 at first, then flat; it ended, and has a verdict instead."""
    log = make(tmp_path / "run", 0, ended=False, config=CONFIG)
    for step in range(700):
        log.metric(record(step, 0.5, truncated_share=0.9, response_length_mean=20.0))
    view = RunView(tmp_path / "run", tmp_path)
    assert [alarm["name"] for alarm in view.details()["alarms"]] == ["cut", "flat"]
    log.event("end", verdict="plateau", reason="enough")
    assert view.details()["alarms"] == []


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    """By what it says, for a file system may give the new one the old one's number."""
    path = tmp_path / "lines.jsonl"
    growing = Growing(path)
    assert growing.read()[0] is False
    path.write_text('{"k": 1}\n{"k": 2}\n')
    void, new = growing.read()
    assert (void, list(new)) == (False, [{"k": 1}, {"k": 2}])
    path.write_text('{"k": 1}\n{"k": 3}\n{"k": 4}\n')  # in place: the inode is the same
    void, new = growing.read()
    assert (void, list(new)) == (True, [{"k": 1}, {"k": 3}, {"k": 4}])
    path.write_text('{"k": 1}\n')
    void, new = growing.read()
    assert (void, list(new)) == (True, [{"k": 1}])
    path.unlink()
    void, new = growing.read()
    assert (void, list(new)) == (True, [])


def test_what_is_no_run_is_left_out(tmp_path: Path) -> None:
    """A model's directory, something half written, a private one, a place that goes away."""
    make(tmp_path / "place" / "run", 2)
    for name, text in (
        ("model", '{"model_type": "llama"}'),
        ("list", "[1]"),
        ("half", '{"digest": "x", "conf'),
        ("e", ""),
    ):
        (tmp_path / "place" / name).mkdir()
        (tmp_path / "place" / name / "config.json").write_text(text)
    (tmp_path / "gone").mkdir()
    source = Directories([tmp_path / "place", tmp_path / "gone"], tmp_path / "cache")
    (tmp_path / "gone").rmdir()
    assert [run["id"] for run in source.runs()] == ["run"]


def test_a_run_whose_process_is_gone_has_stopped(tmp_path: Path) -> None:
    make(tmp_path / "run", 30, ended=False)
    view = RunView(tmp_path / "run", tmp_path)
    assert view.summary()["status"] == "running"
    (tmp_path / "run" / "lock").write_text("999999999\n")
    assert view.summary()["status"] == "running", "something was written just now, perhaps from another machine"
    hour_ago = time.time() - 3600
    for name in ("lock", "rollouts", "events.jsonl"):
        os.utime(tmp_path / "run" / name, (hour_ago, hour_ago))
    assert view.summary()["status"] == "stopped"
    assert view.alarms([]) == []


def test_advantages_of_episodes_count_every_turns_tokens(tmp_path: Path) -> None:
    """By hand: of four turns of 128 tokens, 300 tokens are not too long; rewards 0 and 1 are a half from their mean.

    A setting of another version is passed over.
    """
    config = {"update": {"overlong_buffer": 128, "advantages": "none", "unheard": 1}, "rollout": {"max_tokens": 128}}
    log = make(tmp_path / "run", 0, ended=False, config=CONFIG | config | {"environment": {"max_turns": 4}})
    told = [Completion(token_ids=(1,) * n, logprobs=(-1.0,) * n, text="x", finish_reason="stop") for n in (100, 300)]
    prompt = Prompt(index=0, messages=({"role": "user", "content": "?"},), token_ids=(1,))
    rewards = (Reward(value=0.0), Reward(value=1.0))
    log.save_rollouts(0, [Group(prompt=prompt, completions=tuple(told), rewards=rewards)])
    step = RunView(log.directory, tmp_path).step(0)
    assert step
    found = [c["advantage"] for c in step["groups"][0]["completions"]]
    assert found == [-0.5, 0.5]


def test_the_base_models_level_is_the_first_steps(tmp_path: Path) -> None:
    log = make(tmp_path / "run", 0, ended=False)
    view = RunView(tmp_path / "run", tmp_path)
    assert view.details()["base"] is None
    log.metric(record(0, 0.25))
    log.metric(record(1, 0.75))
    assert view.details()["base"] == 0.25


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """A loss of another version, a checkpoint that is being removed, messages of parts and of nothing."""
    log = make(tmp_path / "run", 0, ended=False, config=CONFIG | {"update": {"loss": "of the future"}})
    told = (Completion(token_ids=(1,), logprobs=(-1.0,), text="x", finish_reason="stop"),)
    contents: list[Any] = [[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], None]
    prompts = [
        Prompt(index=k, messages=({"role": "user", "content": content},), token_ids=(1,))
        for k, content in enumerate(contents)
    ]
    log.save_rollouts(0, [Group(prompt=p, completions=told, rewards=(Reward(value=1.0),)) for p in prompts])
    log.metric(record(0, 1.0))
    (tmp_path / "run" / "checkpoints" / "step_000001").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step_000001" / "manifest.json").write_text("{")
    view = RunView(tmp_path / "run", tmp_path)
    assert view.details()["checkpoints"] == [{"step": 1, "sha256": None}]
    assert view.completions_in(1.0) == (1, 1)
    assert [row["question"] for some in view.index.every(Filter()) for row in some] == ["one\ntwo", ""]
