"""Converse and InvokeModel as chat completions, by hand; no engine."""

import json
from typing import Any

import pytest

from grpo.server.aws import chat
from grpo.server.aws.errors import AwsError

SAID = [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]


def test_a_conversation() -> None:
    given = {
        "system": [{"text": "s"}],
        "messages": SAID,
        "inferenceConfig": {"maxTokens": 5, "topP": 0.5, "stopSequences": ["x"]},
        "additionalModelRequestFields": {"seed": 1},
    }
    assert chat.of_converse(given) == {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a\nb"}],
        "max_tokens": 5,
        "top_p": 0.5,
        "stop": ["x"],
        "seed": 1,
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "messages: required"),
        ({"messages": SAID, "additionalModelRequestFields": 3}, "expected an object"),
        ({"messages": [{"role": "user", "content": [{"image": {}}]}]}, "content of kind image is not implemented"),
        ({"messages": SAID, "guardrailConfig": {"a": 1}}, "guardrailConfig is not implemented"),
    ],
)
def test_what_a_conversation_may_not_have(given: dict[str, Any], said: str) -> None:
    with pytest.raises(AwsError, match=said):
        chat.of_converse(given)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"prompt": "a"}'])
def test_what_no_model_reads(body: bytes) -> None:
    with pytest.raises(AwsError, match="Malformed input request"):
        chat.of_invoke(body)


def test_thoughts() -> None:
    """A model that thinks: its thoughts are reasoning content, before the text."""
    message = {"content": "four", "reasoning": "two and two"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    told = chat.to_converse(answer, 7)
    first, second = told["output"]["message"]["content"]
    assert first == {"reasoningContent": {"reasoningText": {"text": "two and two"}}}
    assert (second, told["stopReason"], told["metrics"]) == ({"text": "four"}, "end_turn", {"latencyMs": 7})
    chunk = {"choices": [{"delta": {"reasoning": "two"}, "finish_reason": None}]}
    (event,) = chat.events_of(chunk, begun=True)
    assert event == {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "two"}}}}


def test_an_engines_refusals() -> None:
    wrong = chat.failure(400, json.dumps({"error": {"message": "too long"}}).encode())
    assert (wrong.code, wrong.message) == ("ValidationException", "too long")
    for content in (b"no json", b"[]"):
        broken = chat.failure(500, content)
        assert (broken.code, broken.status) == ("ModelErrorException", 424)
