"""Converse and InvokeModel ↔ chat completions, which is what the engines speak. Pure.

docs.aws.amazon.com/bedrock/latest/APIReference, API_runtime_Converse; Nova's own form:
docs.aws.amazon.com/nova/latest/userguide/complete-request-schema.html.
"""

import json
from typing import Any

from grpo.server.aws.errors import AwsError, invalid

Given = dict[str, Any]
STOPPED = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
LIMITS = {
    "maxTokens": "max_tokens",
    "temperature": "temperature",
    "topP": "top_p",
    "stopSequences": "stop",
    "topK": "top_k",
}
TAKEN = {"messages", "system", "inferenceConfig", "additionalModelRequestFields"}
NOT_OURS = {"modelId", "schemaVersion"}
"""Nothing of what the engine is asked."""


def of_converse(given: Given) -> Given:
    """The body of a chat completion. Raises AwsError for what is not done here, by name."""
    asked = {f"inferenceConfig.{name}" for name in given.get("inferenceConfig", {}) if name not in LIMITS}
    asked |= {name for name in given if name not in TAKEN | NOT_OURS}
    if asked:
        raise invalid(f"{min(asked)[:100]} is not implemented here")
    system = [{"role": "system", "content": text_of(given["system"], "system")}] if given.get("system") else []
    messages = [
        {"role": message["role"], "content": text_of(message["content"], "messages")}
        for message in given.get("messages", [])
    ]
    if not messages:
        raise invalid("messages: required")
    limits = {LIMITS[name]: value for name, value in given.get("inferenceConfig", {}).items()}
    more = given.get("additionalModelRequestFields") or {}
    if not isinstance(more, dict):
        raise invalid("additionalModelRequestFields: expected an object")
    return {"messages": system + messages, **limits, **more}


def text_of(content: list[Given], where: str) -> str:
    """The text of content blocks. Raises AwsError for other kinds, by name."""
    for block in content:
        if set(block) != {"text"}:
            raise invalid(
                f"{where}: content of kind {', '.join(sorted(set(block) - {'text'}))} is not implemented here"
            )
    return "\n".join(block["text"] for block in content)


def to_converse(answer: Given, milliseconds: int) -> Given:
    """Converse's answer, of a chat completion."""
    choice, usage = answer["choices"][0], answer["usage"]
    content: list[Given] = [{"text": choice["message"].get("content") or ""}]
    thought = choice["message"].get("reasoning")
    if thought:
        content.insert(0, {"reasoningContent": {"reasoningText": {"text": thought}}})
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": STOPPED.get(choice["finish_reason"], "end_turn"),
        "usage": tokens(usage),
        "metrics": {"latencyMs": milliseconds},
    }


def tokens(usage: Given) -> Given:
    """As Bedrock counts them."""
    return {
        "inputTokens": usage["prompt_tokens"],
        "outputTokens": usage["completion_tokens"],
        "totalTokens": usage["total_tokens"],
    }


def of_invoke(body: bytes) -> tuple[Given, bool]:
    """The body of a chat completion, and whether the model's own form was Nova's. Raises AwsError."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("Malformed input request, the body is not JSON") from None
    if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
        raise invalid("Malformed input request, expected an object with messages")
    first = given["messages"][0] if given["messages"] else {}
    content = first.get("content") if isinstance(first, dict) else None
    nova = isinstance(content, list) and all(isinstance(block, dict) and set(block) == {"text"} for block in content)
    if nova:
        return of_converse(given), True
    return {name: value for name, value in given.items() if name not in ("model", "stream")}, False


def to_invoke(answer: Given, nova: bool, model: str) -> bytes:
    """The model's own form of the answer."""
    if not nova:
        return json.dumps(answer | {"model": model}).encode()
    told = to_converse(answer, 0)
    told.pop("metrics")
    return json.dumps(told).encode()


def events_of(chunk: Given, begun: bool) -> list[Given]:
    """Converse's events for a chunk of a chat completion's stream."""
    events: list[Given] = [] if begun else [{"messageStart": {"role": "assistant"}}]
    for choice in chunk.get("choices", []):
        text = choice["delta"].get("content")
        thought = choice["delta"].get("reasoning")
        if thought:
            delta: Given = {"reasoningContent": {"text": thought}}
            events.append({"contentBlockDelta": {"contentBlockIndex": 0, "delta": delta}})
        if text:
            events.append({"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": text}}})
        if choice.get("finish_reason"):
            events.append({"contentBlockStop": {"contentBlockIndex": 0}})
            events.append({"messageStop": {"stopReason": STOPPED.get(choice["finish_reason"], "end_turn")}})
    return events


def failure(status: int, content: bytes) -> AwsError:
    """An engine's refusal, in Bedrock's terms."""
    try:
        found = json.loads(content)
        detail = found.get("error", found) if isinstance(found, dict) else {}
        message = str(detail.get("message", "the engine failed"))[:1000]
    except (ValueError, AttributeError):
        message = "the engine failed"
    return invalid(message) if status < 500 else AwsError("ModelErrorException", "the engine failed", 424)
