"""One job's training as a process of ours. It lives at most as long as we do, and goes on from where another stopped.

A worker may be killed at any moment: a run resumes exactly. So pausing, cancelling and a crash are the same thing, and
there is no protocol between us; what a worker did is read from its run directory. Touches: processes, disk.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tomli_w

from grpo import process_host
from grpo.runlog import in_use
from grpo.server.records import Job

STOP_S = 8.0
"""The host gives the training five seconds before it kills."""
LONGEST_MESSAGE = 2000


class Worker:
    """The process of one attempt at a job."""

    def __init__(self, job: Job, directory: Path, processes: int) -> None:
        """Start. ``directory``: the job's, with the run in ``run``, which must be fenced."""
        self.job_id, self.attempt = job.id, job.attempt
        self.log = directory / "worker.log"
        self.stopping_since: float | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = directory / "config.toml"
        config.write_text(tomli_w.dumps(_without_none(job.settings)))
        scratch = tempfile.mkdtemp(prefix="grpo-worker-")
        with self.log.open("ab") as log:
            self.offset = log.tell()
            self._host = subprocess.Popen(
                [sys.executable, process_host.__file__, scratch, "0", *command(config, processes)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a signal to our group is for us; we end it in order
            )

    @property
    def pid(self) -> int:
        """Of the host above the training."""
        return self._host.pid

    def poll(self) -> int | None:
        """The training's exit code, negative for a signal's; None while it runs."""
        code = self._host.poll()
        return code if code is None or code < 128 else code - 256

    def stop(self) -> None:
        """Ask the host to end the whole tree; ``poll`` tells when it is done. May be called again."""
        now = time.monotonic()
        if self.stopping_since is None:
            self.stopping_since = now
            if self._host.stdin:
                self._host.stdin.close()
        elif now - self.stopping_since > STOP_S and self._host.poll() is None:
            for pid in [*process_host.descendants(self.pid), self.pid]:
                _kill(pid)

    def message(self) -> str:
        """What this attempt said at its end: from its last line that begins with ``error:``, else its last lines."""
        with self.log.open("rb") as log:
            log.seek(self.offset)
            text = log.read()[-64 * 1024 :].decode("utf-8", "replace")
        _, found, last = text.rpartition("error: ")
        return (last if found else "\n".join(text.splitlines()[-5:])).strip()[:LONGEST_MESSAGE]


def command(config: Path, processes: int) -> list[str]:
    """One rank runs without a launcher."""
    if processes == 1:
        return [sys.executable, "-m", "grpo.train", str(config)]
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1"]
    return [sys.executable, *launcher, "--mixed_precision", "no", "-m", "grpo.train", str(config)]


def fenced(run: Path) -> bool:
    """Whether no older worker trains in a run directory; one whose host died without it is killed, and is soon gone.

    The directory's lock dies with its owner, so once it is free no older worker writes there any more.
    """
    if not in_use(run):
        return True
    owner = (run / "lock").read_text().strip()
    if owner.isdigit():
        _kill(int(owner))
    return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself


def _without_none(content: dict[str, object]) -> dict[str, object]:
    """TOML has no null: what is not set is left out."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if value is not None
    }
