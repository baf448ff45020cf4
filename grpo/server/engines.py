"""Inference on demand: vLLM engines, one a base model, with the tuned models as adapters.

vLLM's own handlers answer; we choose the engine and load the adapter. A job's rollout engine never serves here: other
requests in its batches would change what it samples. Touches: processes, network (local sockets).
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog

from grpo import engine as vllm
from grpo import manifest
from grpo.connection import EngineDown
from grpo.doctor import device
from grpo.engine import Engine, EngineOptions
from grpo.errors import CheckpointError, EngineError
from grpo.server.catalogue import chat_template, context_length
from grpo.server.errors import NotFound, Unavailable
from grpo.server.records import Model

LONGEST_CONTEXT = 4096
MOST_ADAPTERS, MOST_ADAPTERS_AT_ONCE = 16, 4
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
REQUEST_S = 3600.0

log = structlog.get_logger()


@dataclass(slots=True)
class Running:
    """One base model's engine and what it has loaded."""

    engine: Engine
    rank: int
    """Of the largest adapter it takes."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the engine starts, and while an adapter is loaded."""
    started: bool = False
    adapters: dict[str, float] = field(default_factory=dict)
    """Model id → when it was last asked for."""
    fields: dict[str, frozenset[str]] = field(default_factory=dict)
    """Route → the fields its body may have, by the engine's own description."""
    busy: int = 0
    used: float = field(default_factory=time.monotonic)


class EnginePool:
    """At most so many engines; the one that was not used for longest goes. All methods run in one event loop."""

    def __init__(self, most: int, idle_s: float, logs: Path, dtype: str = "auto") -> None:
        """``dtype``: of weights and sums; auto: float32 on a CPU, bfloat16 on a GPU."""
        self.most, self.idle_s, self.logs, self.dtype = most, idle_s, logs, dtype
        self._running: dict[Path, Running] = {}

    @contextlib.asynccontextmanager
    async def serving(self, base: Path, names: list[str], model: Model | None) -> AsyncIterator[Running]:
        """An engine that answers for a base model under ``names``, or for a tuned one. Raises Unavailable, NotFound."""
        rank = model.rank if model else RANKS[0]
        running = self._running.get(base) or await self._register(base, names, rank)
        running.busy += 1
        try:
            async with running.changing:
                await self._ready(running, base, names, rank)
                if model:
                    await self._load(running, model)
            yield running
        finally:
            running.busy -= 1
            running.used = time.monotonic()

    async def close(self) -> None:
        """Stop all engines, those that are starting too."""
        for base in list(self._running):
            await self._stop(base)

    async def rest(self) -> None:
        """Stop the engines that were idle for too long, for ever."""
        while True:
            await asyncio.sleep(min(30.0, self.idle_s))
            for base, running in list(self._running.items()):
                if not running.busy and time.monotonic() - running.used > self.idle_s:
                    await self._stop(base)

    async def _register(self, base: Path, names: list[str], rank: int) -> Running:
        """A place for one more engine, not started yet."""
        if not vllm.installed():
            raise Unavailable("vLLM is not installed: `grpo doctor` says how to install it")
        while len(self._running) >= self.most and base not in self._running:
            idle = [path for path, running in self._running.items() if not running.busy]
            if not idle:
                raise Unavailable(f"all {self.most} engines are busy; try again, or start with more --engines")
            await self._stop(min(idle, key=lambda path: self._running[path].used))
        if base not in self._running:  # another request may have come while one was stopped
            rank = at_least(rank)
            self._running[base] = Running(self._new(base, names, rank), rank)
        return self._running[base]

    def _new(self, base: Path, names: list[str], rank: int) -> Engine:
        log_file = self.logs / f"engine-{base.name}.log"
        return Engine(options(base, names, rank, self.dtype), vllm.scratch_directory(2**26), log_file, REQUEST_S)

    async def _ready(self, running: Running, base: Path, names: list[str], rank: int) -> None:
        """Start the engine, or start it again: because it died, or for larger adapters while nobody else uses it."""
        alone = running.busy == 1
        if rank > running.rank and running.started and not alone:
            raise Unavailable("the engine is busy and must be restarted for a larger adapter; try again")
        dead = not running.engine.alive or (alone and not await asyncio.to_thread(running.engine.healthy))
        if running.started and not dead and rank <= running.rank:
            return
        if running.started:
            await asyncio.to_thread(running.engine.stop)
            running.started, running.rank = False, max(running.rank, at_least(rank))
            running.engine = self._new(base, names, running.rank)
            running.adapters.clear()
        await self._start(running, base, names)

    async def _start(self, running: Running, base: Path, names: list[str]) -> None:
        log.info("engine starting", model=names)
        try:
            await asyncio.to_thread(running.engine.start)
            running.fields = await asyncio.to_thread(known_fields, running.engine)
            running.started = True
        except (EngineError, EngineDown) as error:
            log.error("engine", model=names, error=str(error))
            raise Unavailable(f"the engine for {names[0]} did not start; see the server's log") from None
        finally:
            if not running.started:
                await self._stop(base)

    async def _stop(self, base: Path) -> None:
        running = self._running.pop(base, None)
        if running:
            await asyncio.to_thread(running.engine.stop)

    async def _load(self, running: Running, model: Model) -> None:
        """Load a tuned model's adapter, if it is not there."""
        if model.id not in running.adapters:
            try:
                await self._make_room(running)
                await asyncio.to_thread(manifest.verify, manifest.Checkpoint(Path(model.adapter), 0))
                body = {"lora_name": model.id, "lora_path": model.adapter, "load_inplace": True}
                await asyncio.to_thread(running.engine.post, "/v1/load_lora_adapter", body)
            except CheckpointError as error:
                log.error("adapter", model=model.id, error=str(error))
                raise NotFound(f"the files of model {model.id!r} are damaged or gone", code="model_damaged") from None
            except (EngineError, EngineDown) as error:
                log.error("adapter", model=model.id, error=str(error))
                raise Unavailable(f"the engine could not load {model.id!r}; try again") from None
        running.adapters[model.id] = time.monotonic()

    async def _make_room(self, running: Running) -> None:
        while len(running.adapters) >= MOST_ADAPTERS:
            oldest = min(running.adapters, key=lambda name: running.adapters[name])
            del running.adapters[oldest]
            await asyncio.to_thread(running.engine.post, "/v1/unload_lora_adapter", {"lora_name": oldest})


def at_least(rank: int) -> int:
    """The next rank that vLLM has kernels for."""
    return next(r for r in RANKS if r >= rank)


def options(base: Path, names: list[str], rank: int, dtype: str) -> EngineOptions:
    """An engine for chat: adapters beside the base model, all under their public names."""
    where = device()
    own = "float32" if where == "cpu" else "bfloat16"
    return EngineOptions(
        model=base,
        names=tuple(names),
        dtype=own if dtype == "auto" else dtype,
        max_model_len=min(LONGEST_CONTEXT, context_length(base)),
        device=where,
        compiled=where == "cuda",
        memory_gib=1.0,
        memory_share=0.4,
        seed=0,
        lora_rank=rank,
        adapters=MOST_ADAPTERS_AT_ONCE,
        adapters_kept=MOST_ADAPTERS,
        batched_tokens=2 * LONGEST_CONTEXT,
        reasoning_parser=reasoning_parser(base),
    )


def reasoning_parser(base: Path) -> str | None:
    """vLLM's parser for a model whose chat template has it think before it answers."""
    template = chat_template(base)
    if "<|channel|>" in template:
        return "openai_gptoss"
    if "</think>" not in template:
        return None
    kind = str(json.loads((base / "config.json").read_text()).get("model_type"))
    return "qwen3" if kind.startswith("qwen3") else "deepseek_r1"


def known_fields(engine: Engine) -> dict[str, frozenset[str]]:
    """Of every route with a JSON body. vLLM itself ignores fields that it does not know."""
    description = engine.get("/openapi.json")
    found: dict[str, frozenset[str]] = {}
    for path, methods in description["paths"].items():
        body = methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
        if name:
            found[path] = frozenset(description["components"]["schemas"][name].get("properties", {}))
    return found


def client(socket: Path) -> httpx.AsyncClient:
    """To one engine, for one request."""
    transport = httpx.AsyncHTTPTransport(uds=os.fspath(socket))
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=REQUEST_S)
