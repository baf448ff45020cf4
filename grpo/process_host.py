"""The process between us and a child: owns its process tree and ends it when we are gone, however we went.

    python process_host.py SCRATCH_DIR MEMORY_BYTES COMMAND...

Reads its standard input until end of file, which comes when the parent closes the pipe or dies (``kill -9`` included).
Then, or when the child itself exits, it kills every descendant and removes SCRATCH_DIR. MEMORY_BYTES limits the data of
each process below (0: no limit): an engine that leaks dies and is restarted, instead of taking the machine with it. Its
own exit code is the child's, or 143 when it ended the child; when it is killed, the kernel kills the child.
Standard library only: it runs by path, without importing the package. Touches: processes, disk.
"""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL_S = 0.1
GRACE_S = 5.0
ENDED_BY_US = 143


def children(pid: int) -> list[int]:
    """Direct children of a process, from /proc; empty when it is gone."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, parents first."""
    found = children(pid)
    for child in found:
        found += children(child)
    return found


def end_all(grace_s: float) -> None:
    """Ask every descendant to end, then kill what is left. As their reaper we also get the orphans."""
    for pid in descendants(os.getpid()):
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        _reap()
        time.sleep(POLL_S)
    while left:
        for pid in left:
            _signal(pid, signal.SIGKILL)
        _reap()
        time.sleep(POLL_S)
        left = descendants(os.getpid())


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _wait_for_end_of_input(ended: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    ended.set()


def main() -> int:
    scratch, memory, command = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))  # inherited by every process below
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    orphaned = threading.Event()
    threading.Thread(target=_wait_for_end_of_input, args=(orphaned,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: orphaned.set())
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)  # they are for our parent, which ends us in order
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    while child.poll() is None and not orphaned.wait(POLL_S):
        pass
    end_all(GRACE_S)  # time to remove its shared memory
    shutil.rmtree(scratch, ignore_errors=True)
    return ENDED_BY_US if orphaned.is_set() else child.returncode


if __name__ == "__main__":
    sys.exit(main())
