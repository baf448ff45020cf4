"""bedrock-runtime: InvokeModel and Converse, both streamed if asked for. The engines are those of the OpenAI API.

docs.aws.amazon.com/bedrock/latest/APIReference, API_runtime_*; event streams are framed as botocore reads them.
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
from fastapi.concurrency import run_in_threadpool
from moto.core.eventstream import EventStream, EventStreamEncoder
from moto.core.serialize import EventStreamJSONSerializer
from starlette.responses import Response, StreamingResponse

from grpo.server import engines
from grpo.server.aws import chat, wire
from grpo.server.aws.errors import AwsError, of_api, unknown_operation
from grpo.server.aws.models import Models
from grpo.server.aws.wire import Call
from grpo.server.context import Server
from grpo.server.errors import ApiError

Given = dict[str, Any]
STREAM = "application/vnd.amazon.eventstream"
CHAT = "/v1/chat/completions"
OPERATIONS = ("Converse", "ConverseStream", "InvokeModel", "InvokeModelWithResponseStream")


class Runtime:
    """Inference on base models, tuned models and deployments."""

    def __init__(self, server: Server, models: Models) -> None:
        self.server, self.models = server, models

    async def answer(self, call: Call) -> Response:
        """Raises AwsError."""
        name = call.operation.name
        if name not in OPERATIONS:
            raise unknown_operation("bedrock-runtime", name)
        nova = False
        if name.startswith("Converse"):
            body = chat.of_converse(call.given)
        else:
            body, nova = chat.of_invoke(call.given.get("body", b""))
        model: str = call.given["modelId"]
        base, known, tuned = await run_in_threadpool(self.models.locate, model)
        body["model"] = tuned.id if tuned else known[0]
        started = time.monotonic()
        async with AsyncExitStack() as stack:
            try:
                running = await stack.enter_async_context(self.server.engines.serving(base, known, tuned))
            except ApiError as error:
                raise of_api(error) from None
            client = await stack.enter_async_context(engines.client(running.engine.socket))
            if "Stream" in name:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
                answer = await sent(client, body)
                events = converse_events if name.startswith("Converse") else invoke_events
                kept = stack.pop_all()
                return StreamingResponse(framed(call, events(answer, started, nova), kept), media_type=STREAM)
            answer = await sent(client, body)
            found = json.loads(await whole(answer))
            milliseconds = int(1000 * (time.monotonic() - started))
            if name == "Converse":
                told = wire.write(call, chat.to_converse(found, milliseconds))
                return Response(told.body, told.status, told.headers)
            return Response(chat.to_invoke(found, nova, model), media_type="application/json")


async def sent(client: httpx.AsyncClient, body: Given) -> httpx.Response:
    """The engine's answer, its content not read yet. Raises AwsError."""
    try:
        answer = await client.send(client.build_request("POST", CHAT, json=body), stream=True)
    except httpx.HTTPError as error:
        raise unanswered(error) from None
    if answer.status_code >= 400:
        raise chat.failure(answer.status_code, await whole(answer))
    return answer


async def whole(answer: httpx.Response) -> bytes:
    """Its content. Raises AwsError."""
    try:
        return await answer.aread()
    except httpx.HTTPError as error:
        raise unanswered(error) from None


def unanswered(error: httpx.HTTPError) -> AwsError:
    """Of an engine that died."""
    return AwsError("ModelErrorException", f"the engine did not answer ({type(error).__name__})", 424)


async def chunks(answer: httpx.Response) -> AsyncIterator[Given]:
    """The data of a stream of server-sent events."""
    async for line in answer.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


async def converse_events(answer: httpx.Response, started: float, nova: bool) -> AsyncIterator[Given]:
    """ConverseStream's."""
    begun, usage = False, None
    async for chunk in chunks(answer):
        for event in chat.events_of(chunk, begun):
            yield event
        begun, usage = True, chunk.get("usage") or usage
    if usage:
        metrics = {"latencyMs": int(1000 * (time.monotonic() - started))}
        yield {"metadata": {"usage": chat.tokens(usage), "metrics": metrics}}


async def invoke_events(answer: httpx.Response, started: float, nova: bool) -> AsyncIterator[Given]:
    """InvokeModelWithResponseStream's: the model's own chunks, whole."""
    source = converse_events(answer, started, nova) if nova else chunks(answer)
    async for chunk in source:
        yield {"chunk": {"bytes": json.dumps(chunk).encode()}}


async def framed(call: Call, events: AsyncIterator[Given], stack: AsyncExitStack) -> AsyncIterator[bytes]:
    """As bytes; the engine counts as busy until the stream ends or the client has gone."""
    async with stack:
        try:
            async for event in events:
                yield frame(call, event)
        except httpx.HTTPError:
            text = "the engine stopped in the middle of the answer"
            yield frame(call, {"modelStreamErrorException": {"message": text}})


def frame(call: Call, event: Given) -> bytes:
    """One event of the operation's stream."""
    shape = call.operation.output_shape
    stream = EventStream({shape.event_stream_name: [event]}, shape, EventStreamJSONSerializer(call.operation))
    return b"".join(EventStreamEncoder().encode_event(message) for message in stream)
