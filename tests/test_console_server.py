"""What can be done from the console, at a real server: OpenAI's API by cookie, pausing, deleting, trying a grader."""

import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.numpy import load

from servers import KEY, Served, amazon, method, rows

FAILING = """
def lambda_handler(event, context):
    print("looking at", len(event))
    if "boom" in event[0]["messages"][-1]["content"]:
        raise ValueError("boom")
    return [{"id": s["id"], "aggregate_reward_score": 0.5} for s in event]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("console")
    server = Served(folder / "data", tiny_model)
    server.deploy(folder)
    server.deploy(folder, FAILING, "failing")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser(served: Served) -> httpx.Client:
    """What a page of this server sends: a cookie, and no key."""
    match = re.search(r"(http://\S+)/#login=(\S+)", served.banner)
    assert match
    headers = {"origin": match[1], "sec-fetch-site": "same-origin"}
    client = httpx.Client(base_url=match[1], headers=headers, timeout=60)
    assert client.post("/console/login", json={"code": match[2]}).status_code == 200
    return client


def start(browser: httpx.Client, **more: Any) -> dict[str, Any]:
    """As the form does: a file, then a job."""
    file = browser.post(
        "/console/v1/files", data={"purpose": "fine-tune"}, files={"file": ("t.jsonl", rows(16))}
    ).json()
    asked = {"model": "tiny", "training_file": file["id"], "method": method(), **more}
    return dict(browser.post("/console/v1/fine_tuning/jobs", json=asked).json())


def until(browser: httpx.Client, job_id: str, *statuses: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while True:
        found = browser.get(f"/console/api/runs/{job_id}").json()
        if found["job"] in statuses:
            return dict(found)
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_a_job_from_the_form_to_its_end(browser: httpx.Client, served: Served) -> None:
    """Started, followed, compared, taken away and deleted, all with the cookie."""
    place = browser.get("/console/api/place").json()
    assert place == {"server": True, "functions": ["failing", "letters"]}
    jobs = [start(browser, seed=seed) for seed in (1, 2)]
    ended = [until(browser, job["id"], "succeeded", "failed") for job in jobs]
    assert [one["job"] for one in ended] == ["succeeded"] * 2, ended
    assert ended[0]["steps"] == ended[0]["total_steps"] == 4
    assert served.client().fine_tuning.jobs.retrieve(jobs[0]["id"]).status == "succeeded"
    compared = browser.get("/console/api/compare", params={"run": [job["id"] for job in jobs]}).json()
    assert [run["id"] for run in compared["runs"]] == [job["id"] for job in jobs]
    differ = {row["name"]: row["values"] for row in compared["differences"]}
    assert differ.pop("run.dir")
    assert differ.pop("data.train")
    assert differ == {"run.seed": [1, 2]}
    taken = browser.get(f"/console/api/runs/{jobs[0]['id']}/adapter")
    archive = zipfile.ZipFile(io.BytesIO(taken.content))
    assert sorted(archive.namelist()) == ["adapter_config.json", "adapter_model.safetensors"]
    step = Path(served.data / "jobs" / jobs[0]["id"] / "run" / "checkpoints" / "step_000004")
    assert archive.read("adapter_model.safetensors") == (step / "adapter_model.safetensors").read_bytes()
    assert load(archive.read("adapter_model.safetensors"))
    assert [one["step"] for one in ended[0]["checkpoints"]][-1] == 4
    exported = browser.get(f"/console/api/runs/{jobs[0]['id']}/export", params={"first": 3}).text.splitlines()
    assert len(exported) == 16
    assert {json.loads(line)["step"] for line in exported} == {4}
    watched = served.cli("watch", jobs[1]["id"]).splitlines()
    assert watched[0].startswith("step 4/4  reward ")
    assert watched[-1].startswith("budget_exhausted: ")
    for job in jobs:
        assert browser.delete(f"/console/api/runs/{job['id']}").json() == {"id": job["id"], "deleted": True}
        assert browser.get(f"/console/api/runs/{job['id']}").status_code == 404
        assert not (served.data / "jobs" / job["id"]).exists()
        assert list((served.data / "console" / "runs").glob("*.*")) == [], "nor an index of its completions"
        assert browser.delete(f"/console/api/runs/{job['id']}").status_code == 404
    assert [model.id for model in served.client().models.list() if model.owned_by != "local"] == []


def test_pause_resume_cancel_delete(browser: httpx.Client) -> None:
    job = start(browser, method=method(n_epochs=50))
    until(browser, job["id"], "running")
    assert "cancel it first" in browser.delete(f"/console/api/runs/{job['id']}").json()["error"]["message"]
    url = f"/console/v1/fine_tuning/jobs/{job['id']}"
    assert browser.post(f"{url}/pause").json()["status"] == "paused"
    assert until(browser, job["id"], "paused")["status"] == "paused"
    assert browser.post(f"{url}/resume").json()["status"] == "queued"
    until(browser, job["id"], "running")
    assert browser.post(f"{url}/cancel").json()["status"] == "cancelled"
    deadline = time.monotonic() + 30
    while (answer := browser.delete(f"/console/api/runs/{job['id']}")).status_code == 409:
        assert "to end" in answer.json()["error"]["message"]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer.status_code == 200
    assert job["id"] not in [run["id"] for run in browser.get("/console/api/runs").json()]


def test_a_job_that_waited_leaves_nothing(browser: httpx.Client, served: Served) -> None:
    """It has no directory yet: its pages are there all the same, and it can be deleted."""
    first, second = (start(browser, method=method(n_epochs=50)) for _ in range(2))
    until(browser, first["id"], "running")
    found = browser.get(f"/console/api/runs/{second['id']}").json()
    assert (found["steps"], found["looks"]) == (0, [])
    assert found["job"] in ("validating_files", "queued")
    assert browser.get(f"/console/api/runs/{second['id']}/completions").json()["total"] == 0
    for job in (second, first):
        browser.post(f"/console/v1/fine_tuning/jobs/{job['id']}/cancel")
        deadline = time.monotonic() + 30
        while (answer := browser.delete(f"/console/api/runs/{job['id']}")).status_code == 409:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert answer.status_code == 200
        assert browser.get(f"/console/api/runs/{job['id']}").status_code == 404
        assert not (served.data / "jobs" / job["id"]).exists()


def test_a_deployed_model_is_not_deleted(browser: httpx.Client, served: Served) -> None:
    job = start(browser)
    until(browser, job["id"], "succeeded")
    bedrock = amazon(served, "bedrock")
    arn = bedrock.list_custom_models()["modelSummaries"][0]["modelArn"]
    made = bedrock.create_custom_model_deployment(modelDeploymentName="kept", modelArn=arn)
    answer = browser.delete(f"/console/api/runs/{job['id']}")
    assert (answer.status_code, "deployed as kept" in answer.text) == (409, True)
    bedrock.delete_custom_model_deployment(customModelDeploymentIdentifier=made["customModelDeploymentArn"])
    assert browser.delete(f"/console/api/runs/{job['id']}").status_code == 200


def test_the_cookie_opens_the_console_and_nothing_else(browser: httpx.Client) -> None:
    assert browser.get("/console/v1/models").status_code == 200
    assert browser.get("/v1/models").status_code == 401
    assert browser.get("/console/v1/models", headers={"origin": "http://evil.example"}).status_code == 403
    assert browser.get("/console/v1/models", headers={"sec-fetch-site": "same-site"}).status_code == 401
    plain = httpx.Client(base_url=browser.base_url)
    assert plain.get("/console/v1/models").status_code == 401
    assert plain.post("/console/v1/fine_tuning/jobs", json={}).status_code == 401
    assert plain.delete("/console/api/runs/any").status_code == 401
    assert plain.get("/console/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert browser.get("/console/v1/no-such-thing").json()["error"]["code"] == "unknown_operation"


def test_a_reward_function_is_tried(browser: httpx.Client) -> None:
    """Scores by hand: 4 letters of 8 characters, and 2 of 2."""
    samples = [{"messages": [{"role": "user", "content": "?"}], "completion": text} for text in ("ab12cd34", "ok")]
    found = browser.post("/console/api/attempts", json={"function": "letters", "samples": samples}).json()
    assert [one["reward"] for one in found["scores"]] == [0.5, 1.0]
    assert (found["mean"], found["variance"], found["failed"]) == (0.75, 0.0625, 0)
    assert found["sandbox"] in ("strong", "medium", "weak")
    assert 0 < found["seconds_median"] <= found["seconds_most"]
    found = browser.post(
        "/console/api/attempts", json={"function": "failing", "samples": [{"completion": t} for t in ("fine", "boom")]}
    ).json()
    assert [one["reward"] for one in found["scores"]] == [0.5, None]
    assert "boom" in found["scores"][1]["error"]
    assert (found["mean"], found["failed"]) == (0.5, 1)
    assert "looking at 1" in found["printed"]


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"function": "nobody", "samples": [{"completion": "x"}]}, 404, "no function 'nobody'"),
        ({"function": "letters", "samples": []}, 400, "samples"),
        ({"function": "letters", "samples": [{"messages": []}]}, 400, "samples.0.completion"),
        ({"function": "letters", "samples": [{"completion": "x", "messages": "y"}]}, 400, "item.messages"),
        ({"function": "letters", "samples": [{"completion": "x"}], "more": 1}, 400, "more"),
        ([], 400, ""),
    ],
)
def test_what_cannot_be_tried_is_said(browser: httpx.Client, asked: Any, status: int, said: str) -> None:
    answer = browser.post("/console/api/attempts", json=asked)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text


def test_no_secret_is_shown(browser: httpx.Client, served: Served, tmp_path: Path) -> None:
    """Variables of reward functions hold keys of judges."""
    file = tmp_path / "judge.py"
    file.write_text("def lambda_handler(event, context):\n    return []\n")
    served.cli("lambda", "deploy", "judge", str(file), "--env", "JUDGE_API_KEY=very-secret-thing")
    job = start(browser, method=method("judge", n_epochs=50))
    deadline = time.monotonic() + 60
    while not browser.get(f"/console/api/runs/{job['id']}").json()["settings"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    shown = browser.get(f"/console/api/runs/{job['id']}").text
    browser.post(f"/console/v1/fine_tuning/jobs/{job['id']}/cancel")
    assert "JUDGE_API_KEY" in shown
    assert "very-secret-thing" not in shown
