"""An engine that answers like vLLM's server and breaks on command: for what a machine without a GPU cannot run.

It reads the adapter it is told to load from disk, refuses work while asleep, and keeps a prefix cache that is stale
until it is reset. A completion's text names the weights, the cache and the engine it came from.
"""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from grpo import vllm_sampler
from grpo.engine import Engine


class FakeEngine(Engine):
    """Starts a thread instead of a process. ``faults`` and ``launched`` are shared by all engines of a test."""

    faults: set[str]
    waits: threading.Event
    """Cleared: no request is answered."""
    launched: list["FakeEngine"]

    def wait(self) -> None:
        """It answers at once."""

    def launch(self) -> None:
        self.calls: list[str] = []
        self.asleep, self.weights, self.cached = False, "nothing", "nothing"
        self.adapter = {"modules": 0, "norm": 0.0}
        self.server = Server(str(self.socket), Handler)
        self.server.engine = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.launched.append(self)

    def stop(self) -> None:
        self.die()
        super().stop()

    def die(self) -> None:
        """As by SIGKILL: nobody listens any more."""
        self.server.shutdown()
        self.server.server_close()
        self.socket.unlink(missing_ok=True)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON."""
        self.calls.append(path)
        self.waits.wait()
        if path in self.faults:
            self.faults.remove(path)  # once
            return 500, {"error": "planted"}
        if path.startswith("/sleep"):
            self.asleep = True
        elif path == "/wake_up":
            self.asleep, self.cached = False, "dust"
        elif path == "/reset_prefix_cache":
            self.cached = self.weights
        elif self.asleep:
            return 500, {"error": "asleep"}
        elif path == "/v1/load_lora_adapter":
            if body["lora_name"] != "adapter":
                return 400, {"error": "unknown"}
            self._load(Path(body["lora_path"]))
        elif path == "/collective_rpc":
            return 200, {"results": [self.adapter]}
        elif path == "/v1/completions":
            return 200, {"choices": [self._choice(body) for _ in range(body["n"])]}
        return 200, {}

    def _load(self, directory: Path) -> None:
        if "yesterday's adapter" in self.faults and self.adapter["modules"]:
            return
        tensors = load_file(directory / "adapter_model.safetensors")
        settings = json.loads((directory / "adapter_config.json").read_text())
        scale = settings["lora_alpha"] / settings["r"] * (0.5 if "half scale" in self.faults else 1.0)
        parts = [value.double() * scale for name, value in tensors.items() if "lora_B" in name]
        parts = parts[1:] if "a module missing" in self.faults else parts
        norm = sum(float((part**2).sum()) for part in parts)
        self.adapter = {"modules": len(parts), "norm": norm}
        self.weights = f"{norm:.6g}"

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        said = f"{self.weights}|{self.cached}|{body['cache_salt']}|{len(self.launched)}"
        logprobs = {"token_logprobs": [-1.0]}
        return {"token_ids": [7], "logprobs": logprobs, "text": said, "finish_reason": "stop"}


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers of this test start engines that pretend."""
    monkeypatch.setattr(FakeEngine, "faults", set(), raising=False)
    monkeypatch.setattr(FakeEngine, "launched", [], raising=False)
    monkeypatch.setattr(FakeEngine, "waits", threading.Event(), raising=False)
    FakeEngine.waits.set()
    monkeypatch.setattr(vllm_sampler, "Engine", FakeEngine)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    engine: FakeEngine


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        assert isinstance(self.server, Server)
        status, answer = self.server.engine.answer(self.path, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        """Quiet."""
