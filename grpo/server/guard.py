"""What every request passes before anything else sees it: host, origin, size, key. An ASGI middleware.

Default-deny: a route is open only if it is named here. Host and Origin are checked on every method, which is what keeps
a web page from reaching a server on the loopback address (DNS rebinding; CVE-2024-28224, CVE-2026-27482).
"""

import hashlib
import hmac
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grpo.console.gate import Gate
from grpo.server import aws_auth, keys
from grpo.server.aws_auth import BadSignature, Credentials, NotHere
from grpo.server.errors import ApiError, Forbidden, NotImplementedHere, TooLarge, Unauthorized
from grpo.server.settings import LOOPBACK, Settings

OPEN = frozenset({"/healthz"})
PAGES = re.compile(r"/|/console/static/[a-z.]+|/console/login")
"""Of the console: they hold nothing of anybody's; what they show, they ask for below CONSOLE."""
CONSOLE, LOGIN = ("/console/api/", "/console/v1/"), "/console/login"
UPLOADS = re.compile(r"^(/openai|/console)?/v1/files/?$")
LARGE = re.compile(r"/(s3|lambda)/aws4_request")
"""Signed for a service whose requests bear objects and archives."""
DIGEST = re.compile("[0-9a-f]{64}")
MOST_HEADERS, LONGEST_HEAD = 100, 32 * 1024
HOST = re.compile(r"^(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:(?P<port>[0-9]{1,5}))?$")

Render = Callable[[ApiError], ASGIApp]


@dataclass(frozen=True, slots=True)
class Signed:
    """What a verified signature says of the body."""

    sha256: str | None = None
    """Its digest."""
    verify: Callable[[str], None] | None = None
    """Called with the digest of the whole body before anything is done with it. Raises BadSignature."""


NOTHING = Signed()


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """Decides about one request by its head."""

    settings: Settings
    key_sha256: str
    gate: Gate

    def check(self, scope: Scope) -> "Signed":
        """Raises the ApiError to answer with. Returns what a signature says of the body."""
        headers = Headers(scope=scope)
        head = sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > MOST_HEADERS or head > LONGEST_HEAD:
            raise TooLarge(f"more than {MOST_HEADERS} headers, or than {LONGEST_HEAD} bytes of them")
        self._check_host(headers.getlist("host"))
        own = (
            f"{'https' if self.settings.tls else 'http'}://{headers['host']}"  # the console's pages are of this server
        )
        others = [origin for origin in headers.getlist("origin") if origin != own]
        followed = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"  # a link, from wherever
        self._check_origin(others, None if followed else headers.get("sec-fetch-site"))
        self._check_length(scope, headers)
        path = scope["path"]
        if path in OPEN or is_page(scope, headers) or (path.startswith(CONSOLE) and self._logged_in(headers)):
            return NOTHING
        return self._check_key(scope, headers)

    def _logged_in(self, headers: Headers) -> bool:
        """Whether a browser brings the console's cookie, and brings it from a page of this server."""
        own = headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
        return own and self.gate.accepts(cookie_parser(headers.get("cookie", "")).get(self.gate.cookie, ""))

    def _check_host(self, hosts: list[str]) -> None:
        match = HOST.match(hosts[0]) if len(hosts) == 1 else None
        allowed = {*LOOPBACK, self.settings.host, *self.settings.allowed_hosts}
        if not match or match["name"].strip("[]").lower() not in allowed:
            raise Forbidden(
                "this server does not answer to that Host; --allowed-host NAME adds one", code="host_denied"
            )

    def _check_origin(self, origins: list[str], site: str | None) -> None:
        allowed = self.settings.allowed_origins
        if any(origin not in allowed for origin in origins) or (site == "cross-site" and not origins):
            raise Forbidden("web pages may not call this server; --allowed-origin URL adds one", code="origin_denied")

    def _check_length(self, scope: Scope, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > self.limit(scope):
            raise TooLarge(f"the body is larger than {self.limit(scope)} bytes")

    def limit(self, scope: Scope) -> int:
        """Most bytes of a body, framing included."""
        uploads = scope["method"] == "POST" and UPLOADS.match(scope["path"])
        uploads = uploads or LARGE.search(Headers(scope=scope).get("authorization", ""))
        return self.settings.largest_upload + 2**16 if uploads else self.settings.largest_body

    def _check_key(self, scope: Scope, headers: Headers) -> "Signed":
        authorization = headers.getlist("authorization")
        if not authorization and b"Signature=" in scope["query_string"]:
            raise NotImplementedHere("presigned URLs are not implemented here")
        if len(authorization) != 1:
            raise Unauthorized(
                "no API key. Send Authorization: Bearer KEY; the key was shown when the server first started"
            )
        try:
            return self._check_authorization(authorization[0], scope, headers)
        except NotHere as problem:
            raise NotImplementedHere(str(problem)) from None
        except BadSignature as problem:
            raise Unauthorized(f"not accepted: {problem}") from None

    def _check_authorization(self, value: str, scope: Scope, headers: Headers) -> "Signed":
        settings, now = self.settings, datetime.now(UTC)
        known = None
        if settings.aws_access_key_id and settings.aws_secret_access_key:
            known = Credentials(settings.aws_access_key_id, settings.aws_secret_access_key)
        kind, _, credentials = value.partition(" ")
        if kind.lower() == "bearer" and credentials.startswith(aws_auth.TOKEN_PREFIX):
            self._check_unverified(known)
            aws_auth.check_token(credentials, settings.region, known, now)
        elif kind.lower() == "bearer":
            if not hmac.compare_digest(keys.digest(credentials), self.key_sha256):
                raise Unauthorized("this is not the key of this server")
        elif kind == aws_auth.ALGORITHM:
            self._check_unverified(known)
            return self._check_signature(scope, headers, known, now)
        else:
            raise Unauthorized("Authorization must be Bearer KEY or an AWS signature")
        return NOTHING

    def _check_signature(self, scope: Scope, headers: Headers, known: Credentials | None, now: datetime) -> "Signed":
        """At once where the body's digest is stated or there is no body; else once the body is there."""
        path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
        bodiless = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        stated = headers.get("x-amz-content-sha256") or (aws_auth.EMPTY if bodiless else None)

        def check(sha256: str, secret: Credentials | None) -> None:
            aws_auth.check_header(scope["method"], path, query, headers, sha256, self.settings.region, secret, now)

        check(stated or aws_auth.EMPTY, known if stated else None)
        if known is None:
            return NOTHING
        if stated is None:
            aws_auth.check_key_id(headers, known)  # a stranger's body is not read
            return Signed(verify=lambda sha256: check(sha256, known))
        return Signed(sha256=stated if DIGEST.fullmatch(stated) else None)  # S3's clients may leave the body unsigned

    def _check_unverified(self, known: Credentials | None) -> None:
        if known is None and (not self.settings.loopback or self.settings.allowed_hosts):
            raise Unauthorized(
                "AWS signatures cannot be verified here: set GRPO_AWS_ACCESS_KEY_ID and GRPO_AWS_SECRET_ACCESS_KEY"
            )


def is_page(scope: Scope, headers: Headers) -> bool:
    """Whether a browser asks for a page that holds nothing of anybody's. Amazon's clients POST to / too, signed."""
    reads = scope["method"] in ("GET", "HEAD") or scope["path"] == LOGIN
    return reads and "authorization" not in headers and PAGES.fullmatch(scope["path"]) is not None


class Guard:
    """Refuses what the gatekeeper refuses, counts the bytes of a body while they come, and numbers the requests."""

    def __init__(self, app: ASGIApp, gatekeeper: Gatekeeper, render: Render) -> None:
        self.app = app
        self.gatekeeper = gatekeeper
        self.render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        send = _numbered(send)
        try:
            signed = self.gatekeeper.check(scope)
            counted = _counted(receive, self.gatekeeper.limit(scope), signed.sha256)
            if signed.verify:
                counted = await _verified(counted, signed.verify)
        except ApiError as error:
            return await self.render(error)(scope, receive, send)
        await self.app(scope, counted, send)


async def _verified(receive: Receive, verify: Callable[[str], None]) -> Receive:
    """The whole body, once its signature holds. Raises Unauthorized."""
    messages: list[Message] = []
    while not messages or (messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False)):
        messages.append(await receive())
    try:
        verify(hashlib.sha256(b"".join(message.get("body", b"") for message in messages)).hexdigest())
    except BadSignature as problem:
        raise Unauthorized(f"not accepted: {problem}") from None

    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return again


def _counted(receive: Receive, limit: int, sha256: str | None) -> Receive:
    """The body as it comes: not more of it than the limit, and what its signature says."""
    seen, hashed = 0, hashlib.sha256()

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        body = message.get("body", b"")
        seen += len(body)
        if seen > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        hashed.update(body)
        ended = message["type"] == "http.request" and not message.get("more_body", False)
        if ended and sha256 is not None and not hmac.compare_digest(hashed.hexdigest(), sha256):
            raise Unauthorized("the body is not the one that was signed")
        return message

    return counted


def _numbered(send: Send) -> Send:
    request_id = f"req_{uuid.uuid4().hex}".encode()
    extra = [(b"x-request-id", request_id), (b"x-content-type-options", b"nosniff")]

    async def numbered(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", [])
            amazon = any(name.lower() == b"x-amzn-requestid" for name, _ in headers)
            # of an S3 object it would be the object's own, which clients copy with it
            more = extra if amazon else [*extra, (b"cache-control", b"no-store")]
            message = {**message, "headers": [*headers, *more]}
        await send(message)

    return numbered
