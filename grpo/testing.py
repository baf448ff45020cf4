"""A server for other people's tests: ``from grpo.testing import bedrock_rft`` in a conftest.py or a test.

It runs in the test's process, on a free port of 127.0.0.1, with a data directory of its own.
"""

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from grpo.errors import SetupError
from grpo.server.app import Opened, create_app
from grpo.server.protocol import PatientProtocol
from grpo.server.settings import Settings

KEY = "local"
START_S = 30.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that answers."""

    url: str
    """Of Amazon's APIs; that of OpenAI's is ``url`` + ``/v1``."""
    key: str
    """OpenAI's clients' api_key; Amazon's take any credentials."""
    data_dir: Path

    def environment(self) -> dict[str, str]:
        """What boto3 and openai read, so that code under test needs no arguments."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-west-2",
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": self.key,
        }


@contextmanager
def serving(data_dir: Path, models: Mapping[str, Path] | None = None) -> Iterator[Endpoint]:
    """A server until the block ends; ``models``: model id → directory. Raises SetupError when it does not start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = Settings(port=port, data_dir=data_dir, api_key=KEY, models=dict(models or {}))
        opened = Opened(settings)
        try:
            with _answering(opened, listener):
                yield Endpoint(settings.url, KEY, opened.server.data.root)
        finally:
            opened.close()


@contextmanager
def _answering(opened: Opened, listener: socket.socket) -> Iterator[None]:
    config = uvicorn.Config(create_app(opened), http=PatientProtocol, ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="grpo server", daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise SetupError("the server for tests did not start")
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def bedrock_rft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A server for one test, in the environment of its clients."""
    with serving(tmp_path / "bedrock-rft") as endpoint:
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        yield endpoint
