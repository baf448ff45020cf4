"""``grpo ui``: the console alone, on this machine, for run directories. Touches: network."""

import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from grpo.console.gate import Gate
from grpo.console.pages import Pages
from grpo.console.reads import Reads
from grpo.console.replies import HEADERS
from grpo.console.sources import Source
from grpo.errors import SetupError

HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")
LOCKED = "/console/api/"


class Guard:
    """Only this machine's names, only those who are logged in (DNS rebinding: CVE-2024-28224). An ASGI middleware."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self.refusal(Request(scope)) if scope["type"] == "http" else None
        await (problem or self.app)(scope, receive, send)

    def refusal(self, request: Request) -> Response | None:
        """Why a request is not answered."""
        if not HOST.fullmatch(request.headers.get("host", "")):
            return refusal(403, "this server does not answer to that Host")
        followed = request.url.path == "/" and request.headers.get("sec-fetch-mode") == "navigate"
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not followed:
            return refusal(403, "web pages may not call this server")
        if request.url.path.startswith(LOCKED) and not self.gate.accepts(request.cookies.get(self.gate.cookie, "")):
            return refusal(401, "not logged in")
        return None


def pages_alone(source: Source, gate: Gate, more: Sequence[Route] = ()) -> Starlette:
    """Without a guard; ``more``: routes for what can be done, where something can."""

    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refusal(error.status_code, error.detail)

    return Starlette(
        routes=[*Pages(gate).routes(), *Reads(source).routes(), *more], exception_handlers={HTTPException: failed}
    )


def refusal(status: int, text: str) -> Response:
    """In the form of the OpenAI API's errors."""
    return JSONResponse({"error": {"message": text}}, status, headers=HEADERS)


def bind(port: int) -> socket.socket:
    """On the loopback address. Raises SetupError."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise SetupError(f"127.0.0.1:{port}: {error.strerror}. Choose another with --port") from None


def serve(source: Source, home: Path, port: int, tell: Callable[[str], None]) -> None:
    """Until SIGINT or SIGTERM. ``home``: where codes and the secret of the cookies lie; ``tell`` gets the link."""
    gate = Gate(home, secure=False)
    listener = bind(port)
    tell(gate.link(f"http://127.0.0.1:{listener.getsockname()[1]}"))
    config = uvicorn.Config(
        Guard(pages_alone(source, gate), gate), log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listener])
