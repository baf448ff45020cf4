"""Reward functions behind an invocation URL, and at AWS: a stand-in for Lambda's Invoke, the real clients."""

import http.server
import json
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from grpo.rewards import RewardFunction
from grpo.sections import Reward as Settings
from grpo.types import Completion, Prompt, Reward

PATH = "/2015-03-31/functions/function/invocations"
PROMPT = Prompt(index=0, messages=({"role": "user", "content": "q"},), token_ids=(1,), reference_answer="7")


class Lambda(http.server.BaseHTTPRequestHandler):
    """Answers as the runtime interface emulator does; the completion says how."""

    batches: ClassVar[list[list[dict]]] = []

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.batches.append(event)
        text = event[0]["messages"][-1]["content"]
        if text == "slow":
            time.sleep(3)
        answer = json.dumps(
            [{"id": s["id"], "aggregate_reward_score": len(s["messages"][-1]["content"])} for s in event]
        )
        if text == "raise":
            answer = json.dumps({"errorMessage": "no", "errorType": "ValueError", "stackTrace": []})
        if text == "missing":
            answer = json.dumps({"Type": "User", "Message": "Function not found"})
        if text == "nonsense":
            answer = "<html>"
        self.send_response(404 if text == "missing" else 302 if text == "moved" else 200)
        if text == "raise":
            self.send_header("X-Amz-Function-Error", "Unhandled")
        if text == "moved":
            self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lambda)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def score(settings: Settings, tmp_path: Path, *texts: str) -> tuple[Reward, ...]:
    completions = tuple(Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop") for text in texts)
    function = RewardFunction(settings, tmp_path / "log")
    try:
        return function.score([(PROMPT, completions)])[0].rewards
    finally:
        function.close()


@pytest.mark.parametrize("kind", ["url", "aws"])
def test_scores_and_failures(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    where = {"url": url + PATH} if kind == "url" else {"function": "arn:aws:lambda:us-west-2:123456789012:function:f"}
    settings = Settings(timeout_s=1.0, batch_size=1, **where)
    rewards = score(settings, tmp_path, "four", "raise", "nonsense", "missing", "slow", "six six")
    assert [r.value for r in rewards] == [4.0, None, None, None, None, 7.0]
    assert "ValueError" in str(rewards[1].error)
    assert "not JSON" in str(rewards[2].error)
    if kind == "url":
        assert score(settings, tmp_path, "moved")[0].value is None, "a redirect is not followed"


def test_batches_go_out_together_and_come_back_in_order(url: str, tmp_path: Path) -> None:
    Lambda.batches.clear()
    texts = ["x" * n for n in range(1, 21)]
    rewards = score(Settings(url=url + PATH, batch_size=3, concurrency=4), tmp_path, *texts)
    assert [r.value for r in rewards] == [float(n) for n in range(1, 21)]
    assert sorted(map(len, Lambda.batches)) == [2, 3, 3, 3, 3, 3, 3]
    assert Lambda.batches[0][0]["reference_answer"] == {"text": "7"}


def test_exactly_one_source(tmp_path: Path) -> None:
    for wrong in ({}, {"url": "http://x", "file": tmp_path / "r.py"}, {"function": "f", "url": "http://x"}):
        with pytest.raises(ValueError, match="exactly one of"):
            Settings(**wrong)
