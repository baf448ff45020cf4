"""HTTP to a rollout engine: over a private Unix socket to one of ours, over TCP to one that runs elsewhere.

Touches: network.
"""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from grpo.errors import EngineError

CONTROL_TIMEOUT_S = 120.0
MOST_CONNECTIONS = 256


class EngineDown(Exception):
    """The engine did not answer: dead, hung past its time-out, or a server error. The caller may restart it."""


class Connection:
    """To one engine."""

    def __init__(self, timeout_s: float, *, socket: Path | None = None, url: str = "http://engine") -> None:
        """``timeout_s``: for all requests of one ``complete`` together."""
        self.timeout_s = timeout_s
        self._path, self._url = socket, url
        path = str(socket) if socket else None
        self._client = httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url=url)

    def healthy(self) -> bool:
        try:
            return self._client.get("/health", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def post(self, path: str, body: dict[str, Any] | None = None, timeout_s: float = CONTROL_TIMEOUT_S) -> Any:
        """POST JSON, answer decoded. Raises EngineDown on transport and server errors, EngineError on a refusal."""
        try:
            return decode(self._client.post(path, json=body or {}, timeout=httpx.Timeout(timeout_s, connect=10.0)))
        except httpx.HTTPError as error:
            raise EngineDown(f"{path}: {type(error).__name__} {error}") from None

    def get(self, path: str) -> Any:
        """GET, answer decoded. Raises as ``post`` does."""
        try:
            return decode(self._client.get(path, timeout=CONTROL_TIMEOUT_S))
        except httpx.HTTPError as error:
            raise EngineDown(f"{path}: {type(error).__name__} {error}") from None

    def complete(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Completion requests, all at once; their answers in order. Raises as ``post`` does."""
        return asyncio.run(self._complete(bodies))

    async def _complete(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        limits = httpx.Limits(max_connections=MOST_CONNECTIONS)
        transport = httpx.AsyncHTTPTransport(uds=str(self._path) if self._path else None, limits=limits)
        try:
            async with httpx.AsyncClient(transport=transport, base_url=self._url, timeout=self.timeout_s) as client:
                requests = (client.post("/v1/completions", json=body) for body in bodies)
                return [decode(response) for response in await asyncio.gather(*requests)]
        except httpx.HTTPError as error:
            raise EngineDown(f"/v1/completions: {type(error).__name__} {error}") from None

    def disconnect(self) -> None:
        self._client.close()


def decode(response: httpx.Response) -> Any:
    """The JSON of an answer. Raises EngineDown for 5xx, EngineError for 4xx."""
    if response.status_code >= 500:
        raise EngineDown(f"{response.request.url.path}: HTTP {response.status_code} {response.text[:300]}")
    if response.status_code >= 400:
        raise EngineError(f"the engine refused {response.request.url.path}: {response.text[:500]}")
    return response.json() if response.headers.get("content-type", "").startswith("application/json") else None
