"""An engine that somebody else runs, started by ``grpo engine`` on this machine or another. Touches: network, disk.

vLLM's API key does not guard the routes that load weights, so such an engine listens on the loopback address; one on
another machine is reached through a tunnel (``ssh -L``). Weights travel as files, in a directory that both see.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo.connection import Connection, EngineDown
from grpo.engine import POLL_S
from grpo.errors import EngineError


class RemoteEngine(Connection):
    """It cannot be started or stopped from here; one that is gone is waited for."""

    def __init__(self, url: str, scratch: Path, timeout_s: float, version: Callable[[], str]) -> None:
        """``scratch``: the directory that both see; ``version``: of the weights it should have."""
        super().__init__(timeout_s, url=url)
        self.url, self.scratch, self.version = url, scratch, version

    def wait(self) -> None:
        """Until it is healthy. Raises EngineError when it does not come up."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.timeout_s
        while not self.healthy():
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{self.url}: no engine answers there (waited rollout.timeout_s = {self.timeout_s:g} s). "
                    "Start one with `grpo engine CONFIG --port PORT`"
                )
            time.sleep(POLL_S)

    def complete(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As any engine. Raises EngineDown, too, where it was restarted unseen: its answers are the base model's."""
        answers = super().complete(bodies)
        for worker in self.post("/collective_rpc", {"method": "loaded"})["results"]:
            if worker["version"] != self.version():
                raise EngineDown(
                    f"{self.url}: has weights of {worker['version']!r}, not of {self.version()!r}: it was restarted"
                )
        return answers

    def stop(self) -> None:
        """Leave it alone."""
        self.disconnect()
