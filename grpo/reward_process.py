"""A reward function in a Python file: a warm process in a sandbox, replaced when it fails. Touches: processes."""

import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from grpo import reward_host, sandbox
from grpo.errors import RewardError
from grpo.sections import Reward

MOST_LOG_BYTES = 16 * 2**20
"""Of what one process prints; the rest is dropped."""
GRACE_S = 2.0
"""The process times its batches itself; this much later it counts as hung."""


class CallFailed(Exception):
    """One call of the reward function failed; ``timed_out`` says whether it was too slow.

    ``kind`` and ``message`` are those of an exception of the function's own.
    """

    def __init__(
        self, reason: str, timed_out: bool = False, *, kind: str | None = None, message: str | None = None
    ) -> None:
        super().__init__(reason)
        self.timed_out, self.kind, self.message = timed_out, kind, message


class ProcessFunction:
    """Calls the handler in a child process. Not for several threads at once."""

    def __init__(self, config: Reward, log: Path) -> None:
        """Raises RewardError when the file or its handler cannot be loaded, SetupError without the sandbox's means."""
        code = config.code()
        assert code is not None
        if not code.is_file():
            raise RewardError(f"{code}: no such reward file. Set reward.file to a Python file.")
        self.config = config
        self.file = code.resolve()
        self.level = sandbox.choose(config.sandbox)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        try:
            self._start()
        except CallFailed as error:
            self.close()
            raise RewardError(f"{code}: cannot be loaded:\n{error}") from None

    def call(self, events: Any, request_id: str | None = None) -> Any:
        """What the handler returns for a batch, or for any one event. Raises CallFailed.

        ``request_id``: what its context calls this call.
        """
        if self._process is None:
            self._start()
        self._serial += 1
        self._most = reward_host.MOST_BYTES * 2 + reward_host.MOST_BYTES_EACH * reward_host.count(events)
        request = {"serial": self._serial, "event": events, "timeout": self.config.timeout_s}
        request |= {"request_id": request_id} if request_id else {}
        return self._exchange(json.dumps(request).encode() + b"\n", self._serial)

    def close(self) -> None:
        """Kill the child and everything it started."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself
        self._process.wait()
        self._printing.join(GRACE_S)
        os.close(self._requests)
        os.close(self._answers)
        subprocess.run(["rm", "-rf", self._home], check=False)  # shutil's recursion ends at a thousand levels
        self._process = None

    def _start(self) -> None:
        request_read, self._requests = os.pipe()
        self._answers, answer_write = os.pipe()
        self._buffer = b""
        self._home = tempfile.mkdtemp(prefix="grpo-reward-")
        box = self._box(request_read, answer_write)
        plain = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": self._home}
        self._process = subprocess.Popen(
            box.words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(request_read, answer_write, *box.inherited),
            start_new_session=True,
            cwd=self._home,
            env=plain,
        )
        assert self._process.stdout is not None
        self._printing = threading.Thread(target=keep, args=(self._process.stdout, self.log), daemon=True)
        self._printing.start()
        for descriptor in (request_read, answer_write, *box.inherited):
            os.close(descriptor)
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)
        self._serial, self._most = 0, reward_host.MOST_BYTES
        # not as variables of the process: LD_PRELOAD would work on bubblewrap itself, outside
        environment = self.config.environment | {"GRADER_OPTIONS": json.dumps(self.config.options)}
        self._exchange(json.dumps(environment).encode() + b"\n", 0)

    def _box(self, requests: int, answers: int) -> sandbox.Box:
        return sandbox.box(
            self.level,
            self.file.parent,
            Path(self._home),
            network=self.config.network or self.config.builtin == "judge",
            options={
                "requests": requests,
                "answers": answers,
                "file": str(self.file),
                "name": self.file.stem,
                "handler": self.config.handler,
                "memory": int(self.config.memory_gib * 2**30),
            },
        )

    def _exchange(self, request: bytes, serial: int) -> Any:
        """Write one line, read one line, both within the time-out: a child that does not read cannot block us.

        After a time-out of ours, or an answer that belongs to another request, the child is replaced: it would go on
        answering the question before.
        """
        deadline = time.monotonic() + self.config.timeout_s + GRACE_S
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left < 0:  # it may trickle: bytes are no answer
                self.close()
                raise CallFailed(f"no answer within reward.timeout_s = {self.config.timeout_s:g} s", timed_out=True)
            readable, writable, _ = select.select(
                [self._answers], [self._requests] if request else [], [], max(0.0, left)
            )
            if writable:
                request = self._write(request)
            if readable:
                self._read()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return self._result(line, serial)

    def _result(self, line: bytes, serial: int) -> Any:
        try:
            reply = json.loads(line)
            mine = isinstance(reply, dict) and reply["serial"] == serial
        except (ValueError, KeyError, RecursionError):
            mine = False
        if not mine:
            self.close()
            raise CallFailed("the reward process answered something else than what it was asked")
        if "error" in reply:
            kind, message = (str(reply[name]) if name in reply else None for name in ("type", "message"))
            raise CallFailed(str(reply["error"]), reply.get("timed_out") is True, kind=kind, message=message)
        return reply.get("ok")

    def _write(self, request: bytes) -> bytes:
        try:
            return request[os.write(self._requests, request[:65536]) :]
        except BrokenPipeError:
            self._died()
        except BlockingIOError:
            return request
        return b""

    def _read(self) -> None:
        chunk = os.read(self._answers, 65536)
        self._buffer += chunk
        if not chunk:
            self._died()
        if len(self._buffer) > self._most:
            self.close()
            raise CallFailed(f"the answer is larger than {self._most} bytes")

    def _died(self) -> None:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            code = None  # it closed the channel and lives on
        self.close()
        raise CallFailed(
            f"the reward process ended with code {code} (out of memory, os._exit or a crash; see {self.log})"
        )


def keep(printed: IO[bytes], log: Path) -> None:
    """Append what a process prints to a log, up to a limit; the process is never held up by it."""
    left = MOST_LOG_BYTES
    with printed, log.open("ab") as file:
        for chunk in iter(lambda: printed.read1(65536), b""):  # type: ignore[attr-defined]
            file.write(chunk[:left])
            file.flush()
            left -= min(left, len(chunk))
