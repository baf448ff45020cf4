"""``grpo watch``: the story of a run in a terminal and in a pipe."""

import io
import json
import math
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hostile_text import payloads
from made_run import CONFIG, make, record
from rich.console import Console

from grpo.console import terminal
from grpo.console.run_view import RunView

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_curve_by_hand() -> None:
    """Four columns of two rows, 16 eighths in all: 0 is one eighth, 1 is sixteen, 1/3 is 1 + 5, 2/3 is 1 + 10."""
    assert terminal.curve([0.0, 1 / 3, 2 / 3, 1.0], 10, 2) == ["   1.000   ▃█", "   0.000 ▁▆██"]
    assert terminal.curve([1.0, 3.0, 5.0, 7.0], 2, 1) == ["   6.000 ▁█"], "means of two, under one another"
    assert terminal.curve([2.0, math.nan, 2.0], 9, 1) == ["   2.000 ▁▁"]
    assert terminal.curve([], 9, 3) == []
    assert terminal.curve([math.nan], 9, 3) == []


def told_of(directory: Path) -> str:
    """The picture of a run as plain text."""
    view = RunView(directory, directory)
    groups = (view.step(view.steps - 1) or {"groups": []})["groups"]
    told = view.details() | {"name": "run"}
    out = io.StringIO()
    console = Console(file=out, width=160, force_terminal=False, emoji=False)
    console.print(terminal.story(told, view.rewards(), view.last(), terminal.best_and_worst(groups), 160))
    return out.getvalue()


def test_the_story_has_all_that_matters(tmp_path: Path) -> None:
    log = make(tmp_path / "run", 20, ended=False, config=CONFIG | {"convergence": {"horizon": 10, "delta": 0.05}})
    log.event("look", step=20, bound=0.25, window=16, alpha_spent=0.01, stop_steps=[25, 30, 40], stop_rewards=[1, 1, 1])
    log.metric(record(20, 1.0, reward_error_share=0.5))
    log.save_rollouts(20, [])
    text = told_of(tmp_path / "run")
    assert "running" in text
    assert "21/100" in text
    assert "held-out 1.000 [0.900, 1.100] at step 20" in text
    assert "the next 10 steps may still gain up to 0.250; the run stops below 0.05" in text
    assert "forecast: flat by step 30 (25 to 40), reward 1.00" in text
    assert "█" in text
    assert "at most 3 min left" in text  # 79 steps of two seconds
    make(tmp_path / "done", 3)
    text = told_of(tmp_path / "done")
    assert "best 1  What is 2 + 1?" in text
    assert "worst 0  What is 2 + 1?" in text
    assert "the next 20 steps gain less than 0.02" in text


def test_hostile_completions_do_not_move_the_cursor(tmp_path: Path) -> None:
    make(tmp_path / "run", 2, texts=[*payloads(), "\x1b]0;title\x07\x1b[2J[red]markup[/red]"])
    text = told_of(tmp_path / "run")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]markup[/red]" in text, "markup is text"


def test_a_pipe_gets_a_line_a_step(tmp_path: Path) -> None:
    """Of a run that goes on while it is watched, to its end."""
    log = make(tmp_path / "run", 2, ended=False)

    def go_on() -> None:
        for step, pause in ((2, 3.0), (3, 1.2)):
            time.sleep(pause)
            log.save_rollouts(step, [])
            log.metric(record(step, 0.25 * step))
        log.event("end", verdict="plateau", reason="flat enough")

    thread = threading.Thread(target=go_on)
    thread.start()
    words = [sys.executable, "-m", "grpo", "watch", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    thread.join()
    assert done.returncode == 0, done.stderr
    assert "\n." in done.stdout, "a dot while nothing happens"
    lines = [line.lstrip(".") for line in done.stdout.splitlines() if line.strip(".")]
    assert re.match(r"step 4/100  reward 0\.750  length 23", lines[-2]), lines
    assert lines[-1] == "plateau: flat enough"


def test_a_terminal_gets_a_picture(tmp_path: Path) -> None:
    """A real pseudo-terminal; what is drawn again goes over what was there."""
    log = make(tmp_path / "run", 12, ended=False)
    end = threading.Timer(4.0, lambda: log.event("end", verdict="plateau", reason="flat enough"))
    end.start()
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "40"}
    words = [sys.executable, "-m", "grpo", "watch", str(tmp_path / "run")]
    process = subprocess.Popen(words, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed: how Linux says so
            break
        if not part:
            break
        seen += part
    assert process.wait(timeout=30) == 0
    text = ESCAPES.sub("", seen.decode())
    assert "run" in text
    assert "12/100" in text
    assert "█" in text
    assert "best 1" in text
    assert "s since then; Ctrl-C ends the watching, not the run" in text
    assert "flat enough" in text


def test_what_cannot_be_watched_is_said(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "grpo", "watch", "nothing", "--data-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "nothing: 0 jobs begin so" in done.stderr


def test_best_and_worst_are_of_those_that_were_scored() -> None:
    def group(*rewards: Any) -> dict[str, Any]:
        completions = [{"reward": reward, "text": json.dumps(reward)} for reward in rewards]
        return {"prompt": {"messages": [{"role": "user", "content": "?"}]}, "completions": completions}

    found = terminal.best_and_worst([group(0.5, None), group(-1.0, 2.0)])
    assert (found["best"]["text"], found["worst"]["text"]) == ("2.0", "-1.0")
    assert terminal.best_and_worst([group(None)]) == {}
