"""``grpo conformance`` against our own server: what is known holds, and a snapshot finds what is changed."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from grpo.server.conformance import Target, differences, observe, unmet
from grpo.server.probes import Probe, probes

from servers import KEY, Served

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / "benchmarks" / "conformance" / "local.json"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("conformance")
    served = Served(folder / "data", tiny_model, f"--map=amazon.nova-2-lite-v1:0={tiny_model}")
    yield served
    served.stop()


def ask(served: Served, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "thing", "GRPO_API_KEY": KEY}
    command = [sys.executable, "-m", "grpo", "conformance", "--endpoint", served.url.removesuffix("/v1"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_what_is_known_holds_and_snapshots_compare(served: Served, tmp_path: Path) -> None:
    """The committed snapshot is ours; a copy with one answer changed differs there and nowhere else."""
    done = ask(served, "--out", str(tmp_path / "now.json"), "--against", str(LOCAL))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"known", "unknown"}
    written = json.loads((tmp_path / "now.json").read_text())
    assert set(written["answers"]) == {probe.name for probe in probes()}
    assert "unanswered" not in str(written["answers"])
    written["answers"]["unknown job"]["message"] = "Job not found"
    del written["answers"]["models"]["shape"]["object"]
    (tmp_path / "cloud.json").write_text(json.dumps(written))
    done = ask(served, "--against", str(tmp_path / "cloud.json"))
    told = [line.strip() for line in done.stdout.splitlines() if line.startswith(" ")]
    assert len(told) == 2, told
    assert told[0].startswith("message: ")
    assert told[0].endswith("in the snapshot 'Job not found'")
    assert told[1] == "object is more"


def test_an_answer_that_is_not_what_is_known_fails(tmp_path: Path, served: Served) -> None:
    """A wrong key makes every known answer of the OpenAI API wrong, and says which."""
    done = ask(served, "--key", "another")
    assert done.returncode != 0
    assert "answers are not what is known" in done.stderr
    assert "status: 401, known: 200" in done.stdout


def test_a_server_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    """Each probe says so; nothing is taken for an answer."""
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "thing", "GRPO_API_KEY": KEY}
    words = ["conformance", "--endpoint", "http://127.0.0.1:9", "--out", str(tmp_path / "none.json")]
    done = subprocess.run(
        [sys.executable, "-m", "grpo", *words], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode != 0
    answers = json.loads((tmp_path / "none.json").read_text())["answers"]
    assert all("unanswered" in answer for answer in answers.values())


def test_no_snapshot_is_an_error(served: Served, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("[]")
    done = ask(served, "--against", str(tmp_path / "no.json"))
    assert done.returncode != 0
    assert "not a snapshot" in done.stderr


def test_known_by_hand() -> None:
    probe = Probe(name="p", service="s3", operation="o", known={"status": 200, "has": ["a", "b"]})
    assert unmet(probe, {"status": 200, "shape": {"a": "str", "b": "int"}}) == []
    assert unmet(probe, {"status": 404, "code": "x"}) == ["status: 404, known: 200", "a is missing", "b is missing"]


def test_differences_by_hand() -> None:
    theirs = {"status": 200, "shape": {"a": "str", "b": "int"}}
    assert differences(theirs, theirs) == []
    assert differences(theirs, {"status": 200, "shape": {"a": "int", "c": "int"}}) == [
        "b is missing",
        "c is more",
        "a is int, not str",
    ]
    assert differences(theirs, {"status": 404, "code": "x"})[:2] == [
        "status: 404, in the snapshot 200",
        "code: 'x', in the snapshot None",
    ]


def test_probes_are_told_apart_and_known_answers_have_a_source() -> None:
    found = probes()
    assert len({probe.name for probe in found}) == len(found)
    own = {"who am I", "an unknown metric"}
    assert [probe.name for probe in found if probe.known and not probe.source and probe.name not in own] == []


def test_without_a_key_one_is_made_of_credentials(served: Served, tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GRPO_"))}
    plain |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    words = [sys.executable, "-m", "grpo", "conformance", "--endpoint", served.url.removesuffix("/v1")]
    made = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "thing"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=plain | made)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=plain)
    assert done.returncode != 0
    assert "no key: " in done.stderr


def test_a_server_of_another_kind(tmp_path: Path) -> None:
    """Pages instead of JSON: wrong answers, told as they are."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            target = Target("us-west-2", f"http://127.0.0.1:{other.server_port}", "key")
            answer = observe(probes()[0], target)
        finally:
            other.shutdown()
            thread.join()
    assert answer["status"] == 404
    assert "File not found" in answer["message"]
    assert unmet(probes()[0], answer)
