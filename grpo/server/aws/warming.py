"""Deployments become active when an engine has their model: what is deployed is loaded, in the background.

Known in this process only: after a restart a deployment is active, and its engine starts with the first call.
"""

import asyncio
from concurrent.futures import Future
from pathlib import Path

from anyio import from_thread

from grpo.server.engines import EnginePool
from grpo.server.records import Model

CREATING, ACTIVE, BROKEN = "Creating", "Active", "Failed"


class Warming:
    """Which deployments are being loaded."""

    def __init__(self, engines: EnginePool) -> None:
        self.engines = engines
        self._begun: dict[str, Future[None]] = {}

    def begin(self, deployment: str, base: Path, names: list[str], model: Model | None) -> None:
        """Load a deployment's model. Called in a worker thread of the event loop."""
        loop: asyncio.AbstractEventLoop = from_thread.run_sync(asyncio.get_running_loop)
        self._begun[deployment] = asyncio.run_coroutine_threadsafe(self._load(base, names, model), loop)

    def status(self, deployment: str) -> tuple[str, str | None]:
        """As Bedrock calls it, and why it failed."""
        begun = self._begun.get(deployment)
        if begun is None:
            return ACTIVE, None
        if not begun.done():
            return CREATING, None
        problem = begun.exception()
        return (ACTIVE, None) if problem is None else (BROKEN, str(problem)[:2048])

    def forget(self, deployment: str) -> None:
        """Of a deployment that is gone."""
        self._begun.pop(deployment, None)

    async def _load(self, base: Path, names: list[str], model: Model | None) -> None:
        async with self.engines.serving(base, names, model):
            pass
