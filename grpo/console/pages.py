"""The console's one page and its files, and the login. Changes nothing."""

from importlib.resources import files
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from grpo.console.gate import SESSION_S, Gate
from grpo.console.replies import HEADERS, posted

STATIC = Path(str(files("grpo.console") / "static"))
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
LONGEST_CODE = 200


class Pages:
    """What anybody may have: it holds nothing of anybody's."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/", self.page),
            Route("/console/static/{name}", self.static),
            Route("/console/login", self.login, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        """The one page there is; what it shows stands behind the # of its address."""
        return _file("index.html")

    async def static(self, request: Request) -> Response:
        return _file(request.path_params["name"])

    async def login(self, request: Request) -> Response:
        """A one-time code for a cookie."""
        content = await posted(request)
        code = content.get("code") if isinstance(content, dict) else None
        cookie = self.gate.redeem(code) if isinstance(code, str) and len(code) < LONGEST_CODE else None
        if cookie is None:
            raise HTTPException(
                403, "this link was used, or is older than a quarter of an hour: grpo console makes one"
            )
        answer = JSONResponse({"ok": True}, headers=HEADERS)
        answer.set_cookie(
            self.gate.cookie,
            cookie,
            max_age=SESSION_S,
            path="/console",
            httponly=True,
            samesite="strict",
            secure=self.gate.secure,
        )
        return answer


def _file(name: str) -> Response:
    path = STATIC / name
    if path.parent != STATIC or path.suffix not in KINDS or not path.is_file():
        raise HTTPException(404, "no such page")
    return Response(path.read_bytes(), media_type=KINDS[path.suffix], headers=HEADERS)
