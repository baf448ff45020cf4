"""The console without a browser: what pages are told, who is told, and how curves are thinned."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from hostile_text import payloads
from made_run import group, make, record
from prometheus_client.parser import text_string_to_metric_families

from grpo.advantages import normalise
from grpo.console import gate as gates
from grpo.console.gate import COOKIE, MOST_CODES, Gate
from grpo.console.run_view import RunView
from grpo.console.shown import shares
from grpo.console.sources import Directories
from grpo.console.table import Table

from servers import KEY, Served, method, rows


def write(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def test_thinning_by_hand(tmp_path: Path) -> None:
    """Seven steps in three points: 2, 2 and 3 of them; a step without a value counts for nothing."""
    path = tmp_path / "metrics.jsonl"
    values = [1.0, 3.0, None, 5.0, 6.0, 7.0, 20.0]
    write(path, [{"step": k, "a": value, "flag": True, "name": "x"} for k, value in enumerate(values)])
    table = Table(path)
    assert table.refresh() == 7
    assert table.names == ["step", "a"]
    found = table.thinned(["a", "unknown"], 0, 100, 3)
    assert found["step"] == [1, 3, 6]
    assert found["columns"] == {"a": {"mean": [2.0, 5.0, 11.0], "low": [1.0, 5.0, 6.0], "high": [3.0, 5.0, 20.0]}}
    part = table.thinned(["a"], 2, 2, 10)
    assert part == {"step": [2], "columns": {"a": {"mean": [None], "low": [None], "high": [None]}}}
    assert table.thinned(["a"], 50, 60, 10) == {"step": [], "columns": {"a": {"mean": [], "low": [], "high": []}}}


def test_a_table_grows_and_is_taken_back(tmp_path: Path) -> None:
    """A line that is being written waits; a file that a resumed run wrote anew is read anew."""
    path = tmp_path / "metrics.jsonl"
    table = Table(path)
    assert table.refresh() == 0
    write(path, [record(0, 0.25), record(1, 0.5)])
    assert table.refresh() == 2
    with path.open("a") as file:
        file.write('{"step": 2, "critic_rewards')
        file.flush()
        assert table.refresh() == 2
        file.write('_mean": 0.75}\n')
    assert table.refresh() == 3
    assert table.thinned(["critic_rewards_mean"], 2, 2, 9)["columns"]["critic_rewards_mean"]["mean"] == [0.75]
    partial = tmp_path / "new"
    write(partial, [record(0, 0.25)])
    partial.replace(path)
    assert table.refresh() == 1
    assert table.thinned(["part:correct"], 0, 9, 9)["columns"]["part:correct"]["mean"] == [0.25]
    path.unlink()
    assert table.refresh() == 0


def test_a_step_has_the_trainers_advantages(tmp_path: Path) -> None:
    """By hand: rewards 1, 0, 1, 0.5 have mean 0.625 and sample deviation sqrt(0.6875 / 3)."""
    log = make(tmp_path / "run", 2)
    log.save_rollouts(2, [group(1, ["a", "b", "c", "d"], [1.0, 0.0, 1.0, 0.5]), group(2, ["e", "f"], [0.5, None])])
    found = RunView(tmp_path / "run", tmp_path / "cache").step(2)
    assert found
    first, second = found["groups"]
    deviation = (0.6875 / 3) ** 0.5
    wanted = [0.375 / deviation, -0.625 / deviation, 0.375 / deviation, -0.125 / deviation]
    assert [c["advantage"] for c in first["completions"]] == pytest.approx(wanted, rel=1e-5)  # the trainer adds 1e-6
    assert first["reference_answer"] == {"answer": "2"}
    assert not first["silent"]
    assert second["silent"]
    assert [c["advantage"] for c in second["completions"]] == [0.0, None]
    assert second["completions"][1]["error"] == "no number"
    assert first["completions"][0]["mean_logprob"] == pytest.approx(-0.5)
    assert RunView(tmp_path / "run", tmp_path / "cache").step(3) is None


@pytest.mark.parametrize("form", ["std", "none", "leave_one_out"])
def test_advantages_are_the_trainers(form: str) -> None:
    """Against the trainer's own, which are the kernels' (float64)."""
    draw = random.Random(3)
    for size in (1, 2, 3, 8):
        for values in (
            [draw.random() for _ in range(size)],
            [0.5] * size,
            [draw.choice([0.0, 1.0]) for _ in range(size)],
        ):
            assert shares(values, form) == pytest.approx(normalise(values, form), rel=1e-9, abs=1e-12)


def test_what_a_run_is(tmp_path: Path) -> None:
    make(tmp_path / "done", 10)
    make(tmp_path / "going", 4, ended=False)
    (tmp_path / "empty").mkdir()
    source = Directories([tmp_path, tmp_path / "done"], tmp_path / "cache")
    found = {run["id"]: run for run in source.runs()}
    assert set(found) == {"done", "going"}
    assert (found["done"]["status"], found["done"]["reason"]) == ("converged", "the next 20 steps gain less than 0.02")
    assert (found["going"]["status"], found["going"]["steps"], found["going"]["total_steps"]) == ("running", 4, 100)
    view = source.run("done")
    assert view
    details = view.details()
    assert [e["step"] for e in details["evaluations"]] == [5, 10]
    assert [e["event"] for e in details["events"]] == ["start", "end"]
    assert source.run("other") is None


def test_runs_of_the_same_name_have_ids_of_their_own(tmp_path: Path) -> None:
    for place in ("a", "b"):
        make(tmp_path / place / "run", 1)
    source = Directories([tmp_path / "a", tmp_path / "b"], tmp_path / "cache")
    assert sorted(run["id"] for run in source.runs()) == ["run", "run-2"]
    assert source.run("run-2")


def test_a_code_is_good_once_and_not_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(tmp_path / "gate", secure=False)
    assert gate.redeem("anything") is None
    code = gate.new_code()
    assert gate.redeem(f"{code}x") is None
    cookie = gate.redeem(code)
    assert cookie
    assert gate.redeem(code) is None
    assert gate.accepts(cookie)
    assert Gate(tmp_path / "gate", secure=False).accepts(cookie), "a restart logs nobody out"
    until, _, signature = cookie.partition(".")
    for forged in (
        "",
        ".",
        f"{int(until) + 1}.{signature}",
        f"{until}.{signature[:-1]}{'01'[signature[-1] == '0']}",
        f"-1.{signature}",
        "9" * 20,
        "1.é",
    ):
        assert not gate.accepts(forged), forged
    codes = [gate.new_code() for _ in range(MOST_CODES + 1)]
    assert gate.redeem(codes[0]) is None, "so many are good at once"
    assert gate.redeem(codes[1])
    late = codes[-1]
    now = time.time()
    monkeypatch.setattr(gates.time, "time", lambda: now + gates.CODE_S + 1)
    assert gate.redeem(late) is None
    monkeypatch.setattr(gates.time, "time", lambda: now + gates.SESSION_S + 1)
    assert not gate.accepts(cookie)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "gate").iterdir()} == {0o600}


class Ui:
    """``grpo ui`` as a process."""

    def __init__(self, place: Path, home: Path) -> None:
        words = [sys.executable, "-m", "grpo", "ui", str(place), "--port", "0"]
        environment = {**os.environ, "XDG_DATA_HOME": str(home), "XDG_CACHE_HOME": str(home)}
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout
        match = re.search(r"(http://\S+)/#login=(\S+)", self.process.stdout.readline())
        assert match
        self.url, self.code = match[1], match[2]
        self.link = f"{self.url}/#login={self.code}"

    def client(self) -> httpx.Client:
        """Logged in."""
        client = httpx.Client(base_url=self.url, timeout=30)
        deadline = time.monotonic() + 30
        while True:
            try:
                answer = client.post("/console/login", json={"code": self.code})
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert answer.status_code == 200, answer.text
        return client

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Ui]:
    make(tmp_path / "runs" / "one", 12)
    ui = Ui(tmp_path / "runs", tmp_path / "home")
    yield ui
    ui.stop()


def test_what_pages_ask_for(shown: Ui) -> None:
    client = shown.client()
    assert [run["id"] for run in client.get("/console/api/runs").json()] == ["one"]
    assert client.get("/console/api/runs/one").json()["steps"] == 12
    series = client.get(
        "/console/api/runs/one/series", params={"name": ["critic_rewards_mean", "kl"], "points": "4"}
    ).json()
    assert series["step"] == [2, 5, 8, 11]
    assert series["columns"]["critic_rewards_mean"]["mean"][0] == pytest.approx((0 + 1 / 11 + 2 / 11) / 3)
    assert len(client.get("/console/api/runs/one/steps/3").json()["groups"]) == 2
    means = client.get("/console/api/runs/one/prompts/9").json()
    assert means == {"means": [{"step": k, "reward": 0.5} for k in range(12)], "indexed": 12, "steps": 12}
    assert client.get("/console/api/runs/one/completions", params={"text": "TWELVE"}).json()["total"]
    assert client.get("/console/api/place").json() == {"server": False}
    for path, status in (
        ("/console/api/runs/other", 404),
        ("/console/api/runs/one/steps/99", 404),
        ("/console/api/runs/one/completions?order=random", 400),
        ("/console/api/runs/one/completions?least=much", 400),
        ("/console/api/runs/one/export?form=xls", 400),
        ("/console/api/runs/one/steps/3/tokens?place=0", 404),
        ("/console/api/runs/one/steps/3/tokens?place=99", 404),
        ("/console/api/runs/one/adapter", 404),
        ("/console/api/compare?run=one", 400),
        ("/console/api/compare?run=one&run=two", 404),
        ("/console/api/runs/one/series?points=many", 400),
        ("/console/static/..%2fgate.py", 404),
        ("/console/static/uplot.LICENSE", 404),
        ("/console/nothing", 404),
    ):
        answer = client.get(path)
        assert answer.status_code == status, path
        assert answer.json()["error"]["message"]


def test_pages_are_for_those_who_are_logged_in(shown: Ui) -> None:
    client = shown.client()
    (cookie,) = client.cookies.values()
    (name,) = client.cookies.keys()
    assert name.startswith(COOKIE)
    plain = httpx.Client(base_url=shown.url)
    assert plain.get("/").status_code == 200
    assert plain.get("/console/api/runs").status_code == 401
    assert plain.get("/console/api/runs", cookies={name: f"{cookie}0"}).status_code == 401
    assert plain.post("/console/login", json={"code": shown.code}).status_code == 403, "a code is good once"
    assert plain.post("/console/login", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert plain.post("/console/login", data={"code": "x"}).status_code == 415
    for headers in ({"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert client.get("/console/api/runs", headers=headers).status_code == 403, headers
    policy = plain.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_steps_are_told_as_they_come(shown: Ui, tmp_path: Path) -> None:
    """Events bear the number of steps: who comes again with the last one hears of newer ones only."""
    client = shown.client()
    run = tmp_path / "runs" / "one"

    def first(headers: dict[str, str]) -> dict:
        with client.stream("GET", "/console/api/runs/one/live", headers=headers) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    return json.loads(line[6:])
        raise AssertionError("no event")

    assert first({})["steps"] == 12
    assert first({"last-event-id": "12.running"})["status"] == "converged"
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record(12, 0.5)) + "\n")
    told = first({"last-event-id": "12.converged"})
    assert (told["steps"], told["reward"]) == (13, 0.5)


def test_a_run_that_goes_away_ends_its_stream(shown: Ui, tmp_path: Path) -> None:
    with shown.client().stream("GET", "/console/api/runs/one/live") as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("id: 12.")
        (tmp_path / "runs" / "one").rename(tmp_path / "elsewhere")
        assert not [line for line in lines if line.startswith("id: 13")]


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    for place, said in ((tmp_path / "none", "no such directory"), (tmp_path, "no run there")):
        done = subprocess.run([sys.executable, "-m", "grpo", "ui", str(place)], capture_output=True, text=True)
        assert done.returncode != 0
        assert said in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "grpo", "console", "--data-dir", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "no server was started here" in done.stderr


def test_the_servers_console(tmp_path: Path, tiny_model: Path) -> None:
    """By a cookie or the key, below the console only: the cookie opens no API, and pages of other origins nothing."""
    served = Served(tmp_path / "data", tiny_model)
    try:
        match = re.search(r"(http://\S+)/#login=(\S+)", served.banner)
        assert match
        client = httpx.Client(base_url=match[1], headers={"origin": match[1], "sec-fetch-site": "same-origin"})
        assert client.post("/console/login", json={"code": match[2]}).status_code == 200
        assert client.get("/console/api/runs").json() == []
        assert client.get("/v1/models").status_code == 401
        assert client.get("/console/api/runs", headers={"origin": "http://evil.example"}).status_code == 403
        other = httpx.Client(base_url=match[1])
        assert other.get("/console/api/runs").status_code == 401
        assert other.get("/console/api/runs", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        again = served.cli("console").strip()
        assert other.post("/console/login", json={"code": again.partition("#login=")[2]}).status_code == 200
        assert other.get("/console/api/runs/ftjob-nobody").status_code == 404
    finally:
        served.stop()


def test_a_report_is_one_file_and_runs_nothing(tmp_path: Path) -> None:
    """Hostile completions are escaped: parsed by an independent parser, the file has no element of theirs."""
    texts = payloads()
    make(tmp_path / "run", 6, texts=texts)
    done = subprocess.run(
        [sys.executable, "-m", "grpo", "report", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tags: set[str] = set()
    said: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            tags.add(tag)
            assert not [name for name, _ in attributes if name.startswith("on")]

        def handle_data(self, data: str) -> None:
            said.append(data)

    Reader().feed((tmp_path / "run" / "report.html").read_text())
    assert tags <= {
        *(
            "html",
            "head",
            "meta",
            "div",
            "title",
            "style",
            "body",
            "h1",
            "h2",
            "h3",
            "p",
            "img",
            "table",
            "tr",
            "th",
            "td",
            "pre",
        ),
    }
    assert texts[-1] in said
    assert texts[0] in said
    assert "the next 20 steps gain less than 0.02" in " ".join(said)
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", make(tmp_path / "begun", 0).directory):
        done = subprocess.run([sys.executable, "-m", "grpo", "report", str(place)], capture_output=True, text=True)
        assert done.returncode != 0
        assert "no run there" in done.stderr or "no finished step" in done.stderr


def test_prometheus_reads_the_jobs(tmp_path: Path, tiny_model: Path) -> None:
    """By its own parser; the key is asked for."""
    served = Served(tmp_path / "data", tiny_model)
    try:
        served.deploy(tmp_path)
        client = served.client()
        file = client.files.create(file=("t.jsonl", rows(200)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body={"method": method()})
        url, key = served.url.replace("/v1", "/metrics"), {"authorization": f"Bearer {KEY}"}
        assert httpx.get(url).status_code == 401
        deadline = time.monotonic() + 120
        found: dict = {}
        while ("grpo_job_reward", job.id) not in found:
            assert time.monotonic() < deadline, found
            time.sleep(0.3)
            families = text_string_to_metric_families(httpx.get(url, headers=key).text)
            samples = [sample for family in families for sample in family.samples]
            found = {(s.name, s.labels.get("status", s.labels.get("job"))): s.value for s in samples}
        assert found["grpo_jobs", "running"] == 1
        assert found["grpo_jobs", "failed"] == 0
        assert 0 <= found["grpo_job_reward", job.id] <= 1
        assert found["grpo_job_steps", job.id] >= 1
        client.fine_tuning.jobs.cancel(job.id)
    finally:
        served.stop()
