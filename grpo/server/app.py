"""Puts the parts together: one ASGI application for one data directory."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from grpo.console.gate import Gate
from grpo.errors import SetupError
from grpo.sandbox import strongest
from grpo.server import console, keys, prometheus
from grpo.server.aws import entry
from grpo.server.catalogue import Catalogue
from grpo.server.context import Server, ServerDependency, known_query
from grpo.server.engines import EnginePool
from grpo.server.errors import ApiError, Invalid, NotImplementedHere, Unavailable
from grpo.server.graders import Graders
from grpo.server.guard import Gatekeeper, Guard
from grpo.server.openai import files, graders, inference, jobs, models
from grpo.server.settings import DataDirectory, Settings
from grpo.server.store import Database, Store
from grpo.server.supervisor import Supervisor

PREFIXES = ("/v1", "/openai/v1")
"""AWS's pages have the first, the openai package's Bedrock provider the second."""

ERROR = {
    "type": "object",
    "required": ["message", "type", "param", "code"],
    "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
}
ENVELOPE = {"application/json": {"schema": {"type": "object", "required": ["error"], "properties": {"error": ERROR}}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "An error of the request", "content": ENVELOPE},
    "503": {"description": "Not now", "content": ENVELOPE},
}

CONSOLE = "/console"

log = structlog.get_logger()


class Opened:
    """A data directory that this process owns, and the server's parts in it."""

    def __init__(self, settings: Settings) -> None:
        """Raises SetupError when another server has the directory, StoreError when its database cannot be opened."""
        self.settings = settings
        data = DataDirectory(settings.data_dir)
        self._lock = claim(data.root / "lock")
        self.new_key: str | None = None
        if settings.api_key:
            self.key_sha256 = keys.digest(settings.api_key)
        else:
            if not settings.loopback and not (data.root / "key").exists():
                raise SetupError(
                    f"--host {settings.host} is reached from other machines: set GRPO_API_KEY to a secret of your own"
                )
            self.key_sha256, self.new_key = keys.load_or_create(data.root / "key")
        store = Store(Database(data.database))
        self.gate = Gate(data.root / "console", secure=settings.tls)
        sweep(data, store)
        self.server = Server(
            settings=settings,
            data=data,
            store=store,
            catalogue=Catalogue(settings.models),
            graders=Graders(store, data, strongest(), settings.aws_lambda, settings.reach()),
            supervisor=Supervisor(store, data, settings),
            engines=EnginePool(settings.engines, settings.engine_idle_s, data.root, settings.engine_dtype),
        )

    def close(self) -> None:
        """Let go of the directory, once nothing of ours works in it: a second Ctrl-C skips the lifespan's end."""
        self.server.supervisor.close()
        self.server.store.database.close()
        self._lock.close()


def claim(path: Path) -> IO[str]:
    """Take the data directory for this process. Raises SetupError that names the holder."""
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        raise SetupError(f"{path.parent}: another server (process {holder}) uses this data directory") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def sweep(data: DataDirectory, store: Store) -> None:
    """Remove what broken-off uploads left, and files whose record is gone."""
    known = store.files.ids()
    for path in data.files.iterdir():
        if path.name not in known:
            path.unlink()


def create_app(opened: Opened) -> FastAPI:
    """The application; its lifespan runs the jobs."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server = opened.server
        server.supervisor.start()
        resting = asyncio.create_task(server.engines.rest())
        try:
            yield
        finally:
            resting.cancel()
            await server.engines.close()
            await asyncio.to_thread(server.supervisor.close)

    app = FastAPI(title="grpo", docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    app.state.server = opened.server
    everything = APIRouter(dependencies=[Depends(known_query)])
    for part in (files, jobs, graders, models, inference):
        everything.include_router(part.router)
    for prefix in PREFIXES:
        app.include_router(everything, prefix=prefix, include_in_schema=prefix == PREFIXES[0], responses=REFUSALS)
    app.add_api_route("/healthz", health, methods=["GET"])
    app.add_api_route("/metrics", measured, response_class=PlainTextResponse, responses=REFUSALS)
    _handle_errors(app)
    _describe(app)
    pages = console.application(opened.server, opened.gate)
    app.add_middleware(Faces, amazon=entry.Amazon(opened.server), pages=pages)
    gatekeeper = Gatekeeper(opened.settings, opened.key_sha256, opened.gate)
    app.add_middleware(Guard, gatekeeper=gatekeeper, render=refusal)
    if origins := opened.settings.allowed_origins:  # outside the guard: a browser asks first, without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    return app


class Faces:
    """Amazon's APIs and the console in front of OpenAI's API, on one port.

    Below /console/v1 is OpenAI's API for the console's pages, which bring a cookie instead of a key.
    """

    def __init__(self, app: ASGIApp, amazon: entry.Amazon, pages: ASGIApp) -> None:
        self.openai, self.amazon, self.pages = app, amazon, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """By what the request says that it means."""
        if scope["type"] == "http" and entry.meant(scope) is not None:
            await self.amazon(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith(f"{CONSOLE}/v1/"):
            await self.openai({**scope, "path": scope["path"].removeprefix(CONSOLE)}, receive, send)
        elif scope["type"] == "http" and (scope["path"] == "/" or scope["path"].startswith(f"{CONSOLE}/")):
            await self.pages(scope, receive, send)
        else:
            await self.openai(scope, receive, send)


def _describe(app: FastAPI) -> None:
    """FastAPI's description, with the key, and without its own form of a refusal, which we never send."""
    description = app.openapi()
    description["components"] = description.get("components", {}) | {
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}
    }
    for path, methods in description["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            operation["security"] = [] if path == "/healthz" else [{"key": []}]


async def health() -> dict[str, str]:
    """The one route that needs no key."""
    return {"status": "ok"}


def measured(server: ServerDependency) -> Response:
    """For Prometheus, which sends the key as a bearer token."""
    return Response(prometheus.exposition(server), media_type=prometheus.CONTENT_TYPE)


def refusal(error: ApiError) -> ASGIApp:
    """In the form of the API that was meant."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if entry.meant(scope):
            await entry.refuse(error, scope, receive, send)
        else:
            await render(error)(scope, receive, send)

    return answer


def render(error: ApiError) -> ASGIApp:
    """OpenAI's envelope. What will not get better by repeating says so: the clients repeat 409s otherwise."""
    body = {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}
    headers = {} if error.status in (429, 503) else {"x-should-retry": "false"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    amazon = {"__type": "NotImplemented", "message": str(error)} if isinstance(error, NotImplementedHere) else {}
    return JSONResponse({"error": body} | amazon, error.status, headers=headers)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def ours(_: Request, error: ApiError) -> Any:
        return render(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Any:
        return render(in_words(error))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Any:
        if error.status_code == 400:  # FastAPI could not read the body
            cause = error.__cause__
            return render(cause if isinstance(cause, ApiError) else Invalid("the body is not valid JSON"))
        known = error.status_code == 405
        text = "does not take this method" if known else "is not an operation of this server"
        problem = Invalid(f"{request.method} {request.url.path[:200]} {text}", code="unknown_operation")
        problem.status = 405 if known else 404
        return render(problem)

    @app.exception_handler(OperationalError)
    async def database(_: Request, error: OperationalError) -> Any:
        log.error("database", error=str(error.orig))
        return render(no_space())

    @app.exception_handler(OSError)
    async def disk(_: Request, error: OSError) -> Any:
        log.error("disk", error=str(error))
        return render(no_space())

    @app.exception_handler(500)
    async def unexpected(request: Request, error: Exception) -> Any:
        log.error("unexpected", path=request.url.path, error=repr(error))
        problem = Unavailable("an error of the server; its log has the details", code="internal_error")
        problem.status = 500
        return render(problem)


def no_space() -> Unavailable:
    """Of a disk that is full or fails."""
    return Unavailable("the data directory cannot be written: free some space on its disk", code="storage_unavailable")


def in_words(error: RequestValidationError) -> ApiError:
    """The first problem that FastAPI found, with the field it is in."""
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"][1:])[:200]
    if detail["type"] == "json_invalid":
        return Invalid("the body is not valid JSON")
    if detail["type"] == "extra_forbidden":
        return Invalid(f"unknown field {where!r}", param=where, code="unknown_parameter")
    return Invalid(f"{where}: {detail['msg']}" if where else detail["msg"], param=where or None)
