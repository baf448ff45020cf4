"""The same curve through every format gives the same verdict; broken files say what is wrong where."""

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from typer.testing import CliRunner

from grpo.cli import app
from grpo.errors import DataError
from grpo.streams import read_stream

# Multiples of 1/128 are exact in float32, which TensorBoard stores: all formats carry the same numbers.
CURVE = (0.1 + 0.8 * (1 - np.exp(-np.arange(300) / 20)) + np.random.default_rng(0).normal(0, 0.02, 300)).round(4)
CURVE = (CURVE * 128).round() / 128


def ours(folder: Path) -> Path:
    lines = [json.dumps({"step": i, "critic_rewards_mean": r, "zero_variance_share": 0.2}) for i, r in enumerate(CURVE)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def trl(folder: Path) -> Path:
    history = [{"step": i + 1, "reward": r, "reward_std": 0.1, "loss": 0.0} for i, r in enumerate(CURVE)]
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": [*history, {"step": 300, "train_loss": 0.0}]}))
    return path


def table(folder: Path) -> Path:
    path = folder / "curve.csv"
    path.write_text("step,reward,std,n\n" + "".join(f"{i + 1},{r},0.1,64\n" for i, r in enumerate(CURVE)))
    return path


def events(folder: Path) -> Path:
    writer = EventFileWriter(str(folder))
    for i, r in enumerate(CURVE):
        value = Summary.Value(tag="train/reward", simple_value=float(r))
        writer.add_event(Event(step=i + 1, wall_time=float(i), summary=Summary(value=[value])))
    writer.close()
    return folder


@pytest.mark.parametrize("write", [ours, trl, table, events])
def test_every_format_carries_the_curve(write, tmp_path: Path) -> None:
    points = read_stream(write(tmp_path), None)
    assert [p.step for p in points] == list(range(300))
    assert [p.reward for p in points] == CURVE.tolist()


def converge(*arguments: object) -> dict:
    result = CliRunner().invoke(app, ["converge", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_converge_tells_where_it_would_have_stopped(tmp_path: Path) -> None:
    found = converge(table(tmp_path))
    # from step 55 on the curve gains less than 0.02 per 20 steps: 0.8 exp(-t / 20) (1 - 1 / e) = 0.02 at t = 64.6
    assert (found["verdict"], 65 <= found["stop_step"] <= 160) == ("plateau", True)
    stop = found["stop_step"]
    assert found["reward_at_stop"] == pytest.approx(CURVE[stop - 10 : stop].mean())
    assert found["final_reward"] == pytest.approx(CURVE[-10:].mean())
    assert found["saved"] == pytest.approx(1 - stop / 300)
    assert found["looks"][-1]["step"] == stop
    assert found["looks"][-1]["bound"] < 0.02


def test_converge_on_a_line_never_stops(tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    path.write_text("step,reward\n" + "".join(f"{i + 1},{0.002 * i}\n" for i in range(200)))
    found = converge(path)
    assert (found["verdict"], found["stop_step"], found["reward_at_stop"]) == ("improving", None, None)


def test_converge_draws_a_picture_and_speaks(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["converge", str(table(tmp_path))])
    assert "% of the steps saved" in result.output
    assert (tmp_path / "convergence.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "step,rewards\n1,2\n", "line 1: no column reward"),
        ("a.csv", "step,reward\n1,0.5\n2,high\n", "line 3: step, reward or n is not a number"),
        ("a.csv", "step,reward\n", "no step with a reward"),
        ("a.csv", "step,reward\n1,0.5\n1,0.6\n", "step 1 occurs twice"),
        ("trainer_state.json", "{}", "there is no log_history"),
        ("trainer_state.json", '{"log_history": [{"step": 1, "loss": 2.0}]}', "there are loss, step"),
        ("a.txt", "", "expected a run directory"),
    ],
)
def test_broken_files_say_what_is_wrong(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_stream(tmp_path / name, None)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_reward_that_is_no_number_is_a_collapse(value: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,reward\n" + "".join(f"{i + 1},{0.01 * i if i < 40 else value}\n" for i in range(60)))
    found = converge(path)
    assert (found["verdict"], found["stop_step"]) == ("collapsed", 41)


def test_one_step_is_too_few(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,reward\n7,0.5\n")
    assert converge(path)["verdict"] == "improving"
