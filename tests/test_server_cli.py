"""The commands around the server: with it and without it, for people and for scripts."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from servers import REWARD, Served, method, rows, wait_for


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    folder = tmp_path_factory.mktemp("cli")
    server = Served(folder / "data", tiny_model)
    server.deploy(folder)
    yield server
    server.stop()


def test_a_jobs_life_from_the_command_line(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=("t.jsonl", rows(16)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, extra_body={"method": method(n_epochs=50)}
    )
    served.wait_until(lambda: json.loads(served.cli("jobs", "show", job.id, "--json"))["step"] >= 1, 60)
    short = job.id.removeprefix("ftjob-")[:10]
    assert "paused" in served.cli("jobs", "pause", short)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
    assert "queued" in served.cli("jobs", "resume", short)
    wait_for(client, job.id, "running")
    assert "cancelled" in served.cli("jobs", "cancel", short)
    (row,) = json.loads(served.cli("jobs", "ls", "--json"))
    assert (row["id"], row["status"], row["total_steps"]) == (job.id, "cancelled", 200)
    events = [json.loads(line) for line in served.cli("events", short, "--json").splitlines()]
    assert events[0]["message"].startswith("Files validated")
    assert [e["id"] for e in events] == [e.id for e in client.fine_tuning.jobs.list_events(job.id, limit=500)][::-1]
    assert "Job cancelled" in served.cli("events", short, "-f")
    assert file.id in served.cli("files", "ls")
    found = [json.loads(line) for line in served.cli("completions", short, "--step", "1", "--json").splitlines()]
    assert len(found) == 16  # 4 prompts x 4
    best = max(row["reward"] for row in found)
    shown = served.cli("completions", short, "--step", "1", "--min-reward", str(best), "--json").splitlines()
    assert 1 <= len(shown) < 16
    _is_shown_to_people(served, short, file.id)


def _is_shown_to_people(served: Served, job: str, file_id: str) -> None:
    """The same without --json, and what is refused."""
    assert served.cli("completions", job, "--step", "1").count("\n[") == 15
    assert "cancelled" in served.cli("jobs", "show", job)
    assert "cancelled: ended" in served.cli("jobs", "watch", job)
    assert "letters" in served.cli("lambda", "ls")
    assert file_id in {row["id"] for row in json.loads(served.cli("files", "ls", "--json"))}
    for words, message in (
        (("completions", job, "--step", "9999"), "has no step 9999 yet"),
        (("jobs", "show", "nothing"), "0 jobs begin so"),
        (("jobs", "resume", job), "cancelled"),
    ):
        assert message in refusal(*words, "--data-dir", str(served.data))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fidelity", "lax"), "--fidelity lax: relaxed or strict"),
        (("--map", "tiny"), "tiny: expected NAME=VALUE"),
        (("--port", "70000"), "port: Input should be"),
    ],
)
def test_a_server_that_cannot_be(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refusal("serve", "--data-dir", str(tmp_path), *words)


def test_two_servers_on_one_port(served: Served, tmp_path: Path) -> None:
    assert str(served.port) in refusal("serve", "--data-dir", str(tmp_path), "--port", str(served.port))


def refusal(*words: str) -> str:
    """What a command that fails says."""
    done = subprocess.run([sys.executable, "-m", "grpo", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def test_without_a_server(served: Served, tmp_path: Path) -> None:
    served.stop()
    try:
        assert json.loads(served.cli("lambda", "ls", "--json"))[0]["name"] == "letters"
        assert served.cli("jobs", "ls")
    finally:
        served.start()


def test_check_names_the_lines(tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_bytes(rows(2))
    (tmp_path / "bad.jsonl").write_bytes(rows(2) + b"{}\n")
    good = [sys.executable, "-m", "grpo", "files", "check", str(tmp_path / "good.jsonl")]
    assert subprocess.run(good, capture_output=True, text=True).stdout.endswith("good.jsonl: 2 rows\n")
    command = [sys.executable, "-m", "grpo", "files", "check", str(tmp_path / "bad.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "line 3: messages: required" in done.stderr


def packed(**entries: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_zip_as_for_lambda(served: Served, tmp_path: Path) -> None:
    helper = "def score(text):\n    return 0.25\n"
    source = REWARD.partition("def score")[0].replace(
        "def lambda_handler", "from helper import score\n\ndef lambda_handler"
    )
    (tmp_path / "f.zip").write_bytes(packed(**{"lambda_function.py": source, "helper.py": helper}))
    served.cli("lambda", "deploy", "zipped", str(tmp_path / "f.zip"))
    grader = {"type": "lambda", "lambda": {"function": "zipped"}}
    assert served.client().fine_tuning.alpha.graders.run(grader=grader, model_sample="x").reward == 0.25


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "a/../../evil.py", "..\\evil.py"])
def test_a_zip_that_reaches_out_is_refused(served: Served, tmp_path: Path, name: str) -> None:
    (tmp_path / "f.zip").write_bytes(packed(**{"lambda_function.py": REWARD, name: "x"}))
    command = [sys.executable, "-m", "grpo", "lambda", "deploy", "evil", str(tmp_path / "f.zip")]
    done = subprocess.run([*command, "--data-dir", str(served.data)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "not a plain file inside the archive" in done.stderr
    assert not list(served.data.rglob("evil.py"))


def test_environment_and_a_new_version(served: Served, tmp_path: Path) -> None:
    code = "import os\ndef lambda_handler(event, context):\n"
    code += "    return [{'id': s['id'], 'aggregate_reward_score': float(os.environ['SCORE'])} for s in event]\n"
    (tmp_path / "env.py").write_text(code)
    grader = {"type": "lambda", "lambda": {"function": "env"}}
    for value in ("0.5", "0.75"):
        served.cli("lambda", "deploy", "env", str(tmp_path / "env.py"), "--env", f"SCORE={value}")
        assert served.client().fine_tuning.alpha.graders.run(grader=grader, model_sample="x").reward == float(value)
