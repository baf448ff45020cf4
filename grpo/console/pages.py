"""The console's pages and what they ask for, as routes. Reads runs; changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from grpo.console.gate import COOKIE, SESSION_S, Gate
from grpo.console.run_view import RunView
from grpo.console.sources import Source

STATIC = Path(str(files("grpo.console") / "static"))
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MOST_POINTS, MOST_FOUND, LONGEST_CODE = 2000, 200, 200
POLL_S, BEAT_S = 0.5, 15.0


class Pages:
    """The routes of one source of runs."""

    def __init__(self, source: Source, gate: Gate) -> None:
        self.source, self.gate = source, gate

    def routes(self) -> list[Route]:
        """All of them; those below /console/api/ are for those who are logged in."""
        return [
            Route("/", self.page),
            Route("/console/static/{name}", self.static),
            Route("/console/login", self.login, methods=["POST"]),
            Route("/console/api/runs", self.runs),
            Route("/console/api/runs/{run}", self.run),
            Route("/console/api/runs/{run}/series", self.series),
            Route("/console/api/runs/{run}/steps/{step:int}", self.step),
            Route("/console/api/runs/{run}/prompts/{prompt:int}", self.prompt),
            Route("/console/api/runs/{run}/search", self.search),
            Route("/console/api/runs/{run}/live", self.live),
        ]

    async def page(self, request: Request) -> Response:
        """The one page there is; what it shows stands behind the # of its address."""
        return _file("index.html")

    async def static(self, request: Request) -> Response:
        return _file(request.path_params["name"])

    async def login(self, request: Request) -> Response:
        """A one-time code for a cookie. JSON only: no form of another site can send that."""
        if request.headers.get("content-type") != "application/json":
            raise HTTPException(415, "JSON only")
        content = await _json(request)
        code = content.get("code") if isinstance(content, dict) else None
        cookie = self.gate.redeem(code) if isinstance(code, str) and len(code) < LONGEST_CODE else None
        if cookie is None:
            raise HTTPException(
                403, "this link was used, or is older than a quarter of an hour: grpo console makes one"
            )
        answer = JSONResponse({"ok": True}, headers=HEADERS)
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=SESSION_S,
            path="/console",
            httponly=True,
            samesite="strict",
            secure=self.gate.secure,
        )
        return answer

    async def runs(self, request: Request) -> Response:
        return _answer(await run_in_threadpool(self.source.runs))

    async def run(self, request: Request) -> Response:
        return _answer(await run_in_threadpool((await self._view(request)).details))

    async def series(self, request: Request) -> Response:
        """``names``: with commas between; ``first``, ``last``: steps from 0; ``points``."""
        view, query = await self._view(request), request.query_params
        names = [name for name in query.get("names", "").split(",") if name]
        first, last = _whole(query.get("first", "0")), _whole(query.get("last", "1000000000"))
        points = min(MOST_POINTS, max(1, _whole(query.get("points", "600"))))
        await run_in_threadpool(view.table.refresh)
        return _answer(await run_in_threadpool(view.table.thinned, names, first, last, points))

    async def step(self, request: Request) -> Response:
        found = await run_in_threadpool((await self._view(request)).step, request.path_params["step"])
        if found is None:
            raise HTTPException(404, "the run has no such step yet")
        return _answer(found)

    async def prompt(self, request: Request) -> Response:
        view = await self._view(request)
        return _answer({"steps": await run_in_threadpool(view.prompt, request.path_params["prompt"])})

    async def search(self, request: Request) -> Response:
        """``text``: what a completion must contain."""
        view, text = await self._view(request), request.query_params.get("text", "")
        if not text:
            raise HTTPException(400, "text: required")
        found = await run_in_threadpool(lambda: list(view.search(text, MOST_FOUND)))
        return _answer({"found": found, "more": len(found) == MOST_FOUND})

    async def live(self, request: Request) -> Response:
        """Server-sent events: how many steps there are, whenever that changes. The id of an event is that number."""
        view = await self._view(request)
        told = request.headers.get("last-event-id", "")
        return StreamingResponse(
            _events(view, request, _whole(told) if told.isdigit() else -1),
            media_type="text/event-stream",
            headers=HEADERS,
        )

    async def _view(self, request: Request) -> RunView:
        found = await run_in_threadpool(self.source.run, request.path_params["run"])
        if found is None:
            raise HTTPException(404, "no such run")
        return found


async def _events(view: RunView, request: Request, told: int) -> AsyncIterator[str]:
    quiet = 0.0
    while not await request.is_disconnected():
        summary = await run_in_threadpool(view.summary)
        if summary["steps"] != told or quiet >= BEAT_S:
            told, quiet = summary["steps"], 0.0
            yield f"id: {told}\ndata: {json.dumps(summary)}\n\n"
        await asyncio.sleep(POLL_S)
        quiet += POLL_S


def _file(name: str) -> Response:
    path = STATIC / name
    if path.parent != STATIC or path.suffix not in KINDS or not path.is_file():
        raise HTTPException(404, "no such page")
    return Response(path.read_bytes(), media_type=KINDS[path.suffix], headers=HEADERS)


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except ValueError:
        raise HTTPException(400, "the body is not JSON") from None


def _answer(content: Any) -> Response:
    return JSONResponse(content, headers=HEADERS)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise HTTPException(400, f"{text[:20]!r} is no number")
    return int(text)
