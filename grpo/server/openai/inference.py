"""/chat/completions, /completions, /responses: vLLM's own handlers, reached through the engine of the model."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from grpo.server import engines
from grpo.server.context import Server, ServerDependency
from grpo.server.errors import Invalid, Unavailable
from grpo.server.openai import wire
from grpo.server.records import Model

router = APIRouter(tags=["inference"])
CLIENT_CLOSED = 499
"""nginx's; nobody is there to read it."""
Result = TypeVar("Result")
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}
TEMPLATES = ("chat_template", "chat_template_kwargs", "documents", "mm_processor_kwargs")
"""A template is a program: none comes from a request (CVE-2025-62426)."""


class ClientGone(Exception):
    """The client hung up."""


@router.post("/chat/completions", openapi_extra=BODY)
async def chat(request: Request, server: ServerDependency) -> Response:
    """A chat completion, streamed if asked for."""
    return await forward(request, server, "/v1/chat/completions")


@router.post("/completions", openapi_extra=BODY)
async def complete(request: Request, server: ServerDependency) -> Response:
    """A completion of plain text."""
    return await forward(request, server, "/v1/completions")


@router.post("/responses", openapi_extra=BODY)
async def respond(request: Request, server: ServerDependency) -> Response:
    """A response, streamed if asked for."""
    return await forward(request, server, "/v1/responses")


async def forward(request: Request, server: Server, path: str) -> Response:
    """Send the body to the model's engine, and its answer back as it comes."""
    body = parse(await request.body())
    base, names, tuned = await run_in_threadpool(find, server, body.get("model"))
    if tuned is None:
        body["model"] = names[0]
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(server.engines.serving(base, names, tuned))
        unknown = set(body) - running.fields.get(path, frozenset(body))
        if unknown:
            raise Invalid(f"unknown field {min(unknown)[:64]!r}", param=min(unknown)[:64], code="unknown_parameter")
        client = await stack.enter_async_context(engines.client(running.engine.socket))
        try:
            outgoing = client.build_request("POST", path, json=body)
            answer = await unless_gone(request, client.send(outgoing, stream=True))
            kind = answer.headers.get("content-type", "application/json")
            if kind.startswith("text/event-stream"):
                return StreamingResponse(relay(answer, stack.pop_all()), media_type=kind)
            content = await unless_gone(request, answer.aread())
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED)
        except httpx.HTTPError as error:
            name = type(error).__name__
            raise Unavailable(f"the engine did not answer ({name}); it is started again on the next request") from None
        return Response(plain_error(content, answer.status_code), answer.status_code, media_type=kind)


async def unless_gone(request: Request, action: Coroutine[Any, Any, Result]) -> Result:
    """What the engine does for a client, given up when the client hangs up: vLLM then stops, too. Raises ClientGone."""
    work = asyncio.create_task(action)
    gone = asyncio.create_task(hung_up(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def hung_up(request: Request) -> None:
    """Return once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def relay(answer: httpx.Response, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    """The engine's stream; the engine counts as busy until it ends or the client has gone."""
    async with stack:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        except httpx.HTTPError:
            error = {"message": "the engine stopped in the middle of the answer", "type": "server_error"}
            yield f"data: {json.dumps({'error': error})}\n\n".encode()
        finally:
            await answer.aclose()


def parse(content: bytes) -> dict[str, Any]:
    """The body as an object of bounded depth. Raises Invalid."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise Invalid("the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object")
    if wire.depth(body) > wire.DEEPEST:
        raise Invalid(f"the body is nested deeper than {wire.DEEPEST} levels")
    for name in TEMPLATES:
        if name in body:
            raise Invalid("not accepted from a request", param=name)
    return body


def find(server: Server, model: Any) -> tuple[Path, list[str], Model | None]:
    """The base model's directory, its names, and the tuned model if it is one. Raises Invalid, NotFound."""
    if not isinstance(model, str):
        raise Invalid("required, a model's id", param="model")
    tuned = server.store.models.get(model)
    base = Path(tuned.base) if tuned else server.catalogue.find(model)
    return base, server.catalogue.names(base) or [base.name], tuned


def plain_error(content: bytes, status: int) -> bytes:
    """An engine's error in the OpenAI envelope, without addresses or tracebacks of its own."""
    if status < 400:
        return content
    try:
        found = json.loads(content)
        detail = found.get("error", found) if isinstance(found, dict) else {}
    except ValueError:
        detail = {}
    message = str(detail.get("message", "the engine failed")) if isinstance(detail, dict) else "the engine failed"
    code = "engine_error" if status >= 500 else "invalid_request"
    message = "the engine failed" if status >= 500 else message[:1000]
    error = {"message": message, "type": "server_error" if status >= 500 else "invalid_request_error"}
    return json.dumps(
        {"error": error | {"param": detail.get("param") if isinstance(detail, dict) else None, "code": code}}
    ).encode()
