"""What all answers of the console have in common, and how questions are read. Pure."""

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from grpo.console.shown import plain

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


def answer(content: Any) -> Response:
    """As JSON, which has no NaN; in ASCII, for a lone surrogate has no form in UTF-8."""
    return Response(json.dumps(plain(content), allow_nan=False), media_type="application/json", headers=HEADERS)


async def posted(request: Request) -> Any:
    """A body of JSON: no form of another site can send that. Raises HTTPException."""
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415, "JSON only")
    try:
        return await request.json()
    except ValueError:
        raise HTTPException(400, "the body is not JSON") from None


def whole(request: Request, name: str, default: int | None = None) -> int | None:
    """A whole number of the query. Raises HTTPException."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise HTTPException(400, f"{name}: {text[:20]!r} is no whole number")
    return int(text)


def real(request: Request, name: str) -> float | None:
    """A number of the query. Raises HTTPException."""
    text = request.query_params.get(name, "")
    try:
        return float(text) if text else None
    except ValueError:
        raise HTTPException(400, f"{name}: {text[:20]!r} is no number") from None
