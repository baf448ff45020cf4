"""Requests over a real socket that the clients' own tests never make: each is answered with a status and the field."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from servers import Served, method, rows

KEY = {"Authorization": "Bearer grpo-test-key"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    folder = tmp_path_factory.mktemp("answers")
    server = Served(folder / "data", tiny_model)
    server.deploy(folder)
    yield server
    server.stop()


def ask(served: Served, verb: str, path: str, **given: Any) -> httpx.Response:
    return httpx.request(verb, served.url + path, headers=KEY | given.pop("headers", {}), timeout=30, **given)


def upload(served: Served, content: bytes = b"x", purpose: str = "evals", **fields: str) -> httpx.Response:
    data = {"purpose": purpose} | {name.replace("__", "[") + "]" * ("__" in name): v for name, v in fields.items()}
    return ask(served, "POST", "/files", data=data, files={"file": ("t.jsonl", content)})


def test_an_upload_without_a_file(served: Served) -> None:
    answer = ask(served, "POST", "/files", files={"purpose": (None, "evals")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")


def test_a_line_longer_than_any_prompt(served: Served) -> None:
    answer = upload(served, b"a" * (10 * 2**20 + 1), "fine-tune")
    assert answer.status_code == 400
    assert "line 1: longer than" in answer.json()["error"]["message"]


def test_when_a_file_expires(served: Served) -> None:
    kept = upload(served, expires_after__anchor="created_at", expires_after__seconds="3600").json()
    assert kept["expires_at"] - kept["created_at"] == 3600
    refused = upload(served, expires_after__anchor="created_at", expires_after__seconds="an hour")
    assert refused.json()["error"]["param"] == "expires_after[seconds]"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"method": method() | {"dpo": {}}}, "method.dpo"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
        ({"training_file": "of another purpose"}, "training_file"),
        ({"metadata": {"a": json.loads("[" * 70 + "]" * 70)}}, None),
    ],
)
def test_a_job(served: Served, change: dict[str, Any], param: str | None) -> None:
    change = change | ({"training_file": upload(served).json()["id"]} if "training_file" in change else {})
    file = upload(served, rows(4), "fine-tune").json()["id"]
    body = {"model": "tiny", "training_file": file, "method": method()} | change
    answer = ask(served, "POST", "/fine_tuning/jobs", json=body)
    assert answer.status_code == 400
    assert param is None or answer.json()["error"]["param"] == param


def test_a_base_model(served: Served) -> None:
    assert ask(served, "GET", "/models/tiny").json()["id"] == "tiny"
    refused = ask(served, "DELETE", "/models/tiny")
    assert refused.status_code == 403
    assert "leave out --map" in refused.json()["error"]["message"]


def test_a_body_too_deep_to_read(served: Served) -> None:
    for content, message in (
        ("[" * 100_000, "not valid JSON"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested deeper"),
    ):
        answer = ask(served, "POST", "/chat/completions", content=content)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("messages", ["hello", ["hello"]])
def test_an_item_for_a_grader(served: Served, messages: Any) -> None:
    body = {"grader": method()["reinforcement"]["grader"], "model_sample": "x", "item": {"messages": messages}}
    answer = ask(served, "POST", "/fine_tuning/alpha/graders/run", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "item.messages")


def test_nothing_becomes_a_websocket(served: Served) -> None:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    answer = ask(served, "GET", "/models", headers=headers | {"Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="})
    assert answer.status_code == 200
    assert "upgrade" not in answer.headers, "an ordinary answer"
