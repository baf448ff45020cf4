"""Completions in, rewards out: the user's file with Bedrock's Lambda contract, in a child process of its own.

Contract (docs.aws.amazon.com/bedrock/latest/userguide/reward-functions.html): ``lambda_handler(event, context)`` gets
a list of {id, messages, reference_answer, metadata} and returns a list of {id, aggregate_reward_score, metrics_list}.
The last message is the completion. A string reference is wrapped as {"text": ...}, at top level and in the metadata,
which is what AWS's own reward functions read.

A failed score is data: the completion gets ``value=None`` with the reason. A call that raises, hangs or returns the
wrong thing is repeated sample by sample, so that one bad completion does not cost its neighbours their scores.
Touches: processes, user code.
"""

import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from grpo import reward_host
from grpo.config import RewardFile
from grpo.errors import RewardError
from grpo.types import Completion, Group, Prompt, Reward

MOST_CONSECUTIVE_TIMEOUTS = 3
MOST_ANSWER_BYTES = 64 * 2**20


class CallFailed(Exception):
    """One call of the reward function failed; ``timed_out`` says whether it was too slow."""

    def __init__(self, reason: str, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class RewardFunction:
    """A warm child process that scores batches. Started at first use, replaced after a failure."""

    def __init__(self, config: RewardFile, log: Path) -> None:
        """Raises RewardError when the file or its handler cannot be loaded."""
        if not config.file.is_file():
            raise RewardError(f"{config.file}: no such reward file. Set reward.file to a Python file.")
        self.config = config
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        try:
            self._start()
        except CallFailed as error:
            self.close()
            raise RewardError(f"{config.file}: cannot be loaded:\n{error}") from None

    def score(self, groups: Seq[tuple[Prompt, tuple[Completion, ...]]]) -> list[Group]:
        """All groups with their rewards; scoring failures become rewards without a value."""
        events = [
            event(prompt, completion, f"sample-{g}-{c}")
            for g, (prompt, completions) in enumerate(groups)
            for c, completion in enumerate(completions)
        ]
        rewards: list[Reward] = []
        for start in range(0, len(events), self.config.batch_size):
            rewards += self._score_batch(events[start : start + self.config.batch_size])
        flat = iter(rewards)
        return [
            Group(prompt=prompt, completions=completions, rewards=tuple(next(flat) for _ in completions))
            for prompt, completions in groups
        ]

    def close(self) -> None:
        """Kill the child and everything it started in its process group."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself
        self._process.wait()
        os.close(self._requests)
        os.close(self._answers)
        shutil.rmtree(self._home, ignore_errors=True)
        self._process = None

    def _score_batch(self, events: list[dict[str, Any]]) -> list[Reward]:
        try:
            return parse(self._call(events), events)
        except CallFailed as error:
            if len(events) == 1:
                return [Reward(value=None, error=str(error))]
        rewards: list[Reward] = []
        timeouts = 0
        for single in events:
            if timeouts >= MOST_CONSECUTIVE_TIMEOUTS:
                rewards.append(Reward(value=None, error=f"not tried: {timeouts} samples before it timed out in a row"))
                continue
            try:
                rewards += parse(self._call([single]), [single])
                timeouts = 0
            except CallFailed as error:
                rewards.append(Reward(value=None, error=str(error)))
                timeouts = timeouts + 1 if error.timed_out else 0
        return rewards

    def _call(self, payload: list[dict[str, Any]]) -> Any:
        if self._process is None:
            self._start()
        self._serial += 1
        request = json.dumps({"serial": self._serial, "event": payload}) + "\n"
        return self._exchange(request.encode(), self._serial)

    def _start(self) -> None:
        request_read, self._requests = os.pipe()
        self._answers, answer_write = os.pipe()
        self._buffer = b""
        self._home = tempfile.mkdtemp(prefix="grpo-reward-")
        memory = str(int(self.config.memory_gib * 2**30))
        words = [sys.executable, "-I", reward_host.__file__, str(request_read), str(answer_write)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*words, str(self.config.file.resolve()), self.config.handler, memory],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(request_read, answer_write),
                start_new_session=True,
                cwd=self._home,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": self._home},
            )
        os.close(request_read)
        os.close(answer_write)
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)
        self._serial = 0
        self._exchange(b"", 0)

    def _exchange(self, request: bytes, serial: int) -> Any:
        """Write one line, read one line, both within the time-out: a child that does not read cannot block us.

        After a time-out, or an answer that belongs to another request, the child is replaced: it would go on
        answering the question before.
        """
        deadline = time.monotonic() + self.config.timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            readable, writable, _ = select.select(
                [self._answers], [self._requests] if request else [], [], max(0.0, left)
            )
            if not readable and not writable:
                self.close()
                raise CallFailed(f"no answer within reward.timeout_s = {self.config.timeout_s:g} s", timed_out=True)
            if writable:
                request = self._write(request)
            if readable:
                self._read()
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply = json.loads(line)
        if reply["serial"] != serial:
            self.close()
            raise CallFailed("the reward process answered another request")
        if "error" in reply:
            raise CallFailed(reply["error"])
        return reply["ok"]

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
        if len(self._buffer) > MOST_ANSWER_BYTES:
            self.close()
            raise CallFailed(f"the answer is larger than {MOST_ANSWER_BYTES >> 20} MiB")

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


def event(prompt: Prompt, completion: Completion, sample_id: str) -> dict[str, Any]:
    """One entry of the batch the reward function receives."""
    reference = prompt.reference_answer
    if isinstance(reference, str):
        reference = {"text": reference}
    sample: dict[str, Any] = {
        "id": sample_id,
        "messages": [*prompt.messages, {"role": "assistant", "content": completion.text}],
        "metadata": dict(prompt.metadata),
    }
    if reference is not None:
        sample["reference_answer"] = reference
        sample["metadata"]["reference_answer"] = reference
    return sample


def parse(result: Any, events: Seq[dict[str, Any]]) -> list[Reward]:
    """Match a result list to its events by id. Raises CallFailed when it is not a list of objects with ids."""
    if not isinstance(result, list) or not all(isinstance(entry, dict) for entry in result):
        raise CallFailed(
            f"returned {type(result).__name__}, expected a list of objects with id, aggregate_reward_score"
        )
    by_id = {entry.get("id"): entry for entry in result if isinstance(entry.get("id"), str)}
    return [_reward(by_id.get(sample["id"])) for sample in events]


def _reward(entry: dict[str, Any] | None) -> Reward:
    if entry is None:
        return Reward(value=None, error="no entry with this sample's id in the result")
    score = entry.get("aggregate_reward_score")
    if score is None or not is_number(score):
        return Reward(value=None, error=f"aggregate_reward_score is {score!r}, expected a finite number")
    metrics = entry.get("metrics_list")
    parts = {
        str(metric["name"]): float(metric["value"])
        for metric in (metrics if isinstance(metrics, list) else [])
        if isinstance(metric, dict) and "name" in metric and is_number(metric.get("value"))
    }
    return Reward(value=float(score), parts=parts)


def is_number(value: Any) -> bool:
    """A finite int or float that fits a float; booleans are not scores."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
