"""One call of a function: in the sandbox, with what it prints kept as log lines. Touches: processes, disk."""

import json
import tempfile
import threading
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grpo.errors import RewardError
from grpo.reward_process import CallFailed, ProcessFunction
from grpo.sections import Reward
from grpo.server.graders import Graders
from grpo.server.records import Function, LogLine
from grpo.server.store import Store

MOST_AT_ONCE = 4
"""Functions that run at the same time; further calls wait."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came back."""

    payload: bytes
    failed: bool
    printed: bytes


class Invoker:
    """Runs functions, each call in a process of its own."""

    def __init__(self, store: Store, graders: Graders) -> None:
        self.store, self.graders = store, graders
        self._places: AbstractContextManager[Any] = threading.BoundedSemaphore(MOST_AT_ONCE)

    def invoke(self, function: Function, payload: bytes) -> Result:
        """The function's answer to a JSON payload, or the error body that Lambda sends in its place."""
        request_id, started = str(uuid.uuid4()), time.time()
        with self._places, tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "printed"
            answer, failed = self._run(function, payload, log, request_id)
            printed = log.read_bytes() if log.exists() else b""
        problem = answer if failed else None
        lines = self._tell(function, printed, problem, request_id, started)
        return Result(json.dumps(answer).encode(), failed, "".join(f"{line}\n" for line in lines).encode())

    def _run(self, function: Function, payload: bytes, log: Path, request_id: str) -> tuple[Any, bool]:
        try:
            event = json.loads(payload or b"{}")
        except (ValueError, RecursionError) as error:
            return {"errorMessage": f"the payload is not JSON: {error}", "errorType": "Runtime.UnmarshalError"}, True
        try:
            process = ProcessFunction(Reward.model_validate(self.graders.section(function)), log)
        except (RewardError, ValidationError) as error:
            return {"errorMessage": str(error), "errorType": "Runtime.ImportModuleError"}, True
        try:
            return process.call(event, request_id), False
        except CallFailed as error:
            return body_of(error, function, request_id), True
        finally:
            process.close()

    def _tell(
        self, function: Function, printed: bytes, problem: dict[str, Any] | None, request_id: str, started: float
    ) -> list[str]:
        """Lambda's lines around those of the function; ``problem``: the error body of a call that failed."""
        milliseconds = 1000 * (time.time() - started)
        said = printed.decode(errors="replace").splitlines()
        if problem:
            said.append(f"[ERROR] {problem['errorType']}: {problem['errorMessage']}")
            said += [line.rstrip() for line in problem.get("stackTrace", [])]
        lines = [f"START RequestId: {request_id} Version: $LATEST", *said, f"END RequestId: {request_id}"]
        lines.append(f"REPORT RequestId: {request_id}\tDuration: {milliseconds:.2f} ms")
        now, day = int(time.time() * 1000), time.strftime("%Y/%m/%d")
        stream = f"{day}/[$LATEST]{function.sha256[:32]}"
        group = f"/aws/lambda/{function.name}"
        self.store.lines.add(LogLine(group=group, stream=stream, at_ms=now, message=line) for line in lines)
        return lines


def body_of(error: CallFailed, function: Function, request_id: str) -> dict[str, Any]:
    """As Lambda reports a call that failed."""
    if error.timed_out:
        text = f"RequestId: {request_id} Error: Task timed out after {function.timeout_s:.2f} seconds"
        return {"errorMessage": text, "errorType": "Sandbox.Timedout"}
    if error.kind is None:  # not an exception of the function: it ended, or what it returned is no JSON
        return {"errorMessage": str(error), "errorType": "Runtime.ExitError"}
    return {
        "errorMessage": error.message,
        "errorType": error.kind,
        "requestId": request_id,
        "stackTrace": [f"  {line}\n" for line in str(error).splitlines()[1:-1]],
    }
