"""Which user reward code runs as: one of its own where root can become another, so that limits per user hold for it.

Touches: /proc, a short process.
"""

import os
import secrets
import subprocess
import sys
from functools import cache
from pathlib import Path

UNUSED = (1_879_048_192, 2**24), (65_000, 534)
"""(first, number) of user ids that nobody has: above every real user; and, for a container that maps only 65,536 ids,
those that Debian reserves (Debian policy, 9.2.2)."""
SETGID, SETUID = 6, 7
PROBE = """
import os, resource
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    child = os.fork()
except BlockingIOError:
    print("held")
else:
    os._exit(0) if child == 0 else os.waitpid(child, 0)
"""


def draw() -> int:
    """A user id of its own for a sandbox; 0 where this process cannot become another user."""
    if os.geteuid() != 0 or not _may_change():
        return 0
    for first, number in UNUSED:
        if all(_maps(Path("/proc/self") / name, first, number) for name in ("uid_map", "gid_map")):
            return first + secrets.randbelow(number)
    return 0


@cache
def limits_hold() -> bool:
    """Whether a limit on processes binds the user we are: the kernel exempts the machine's root, in namespaces too.

    Tried with one process that may not start a second.
    """
    done = subprocess.run([sys.executable, "-I", "-c", PROBE], capture_output=True, text=True)
    return done.stdout.strip() == "held"


def _may_change() -> bool:
    """Root in a container may have lost the rights; a namespace made without privileges forbids a change of groups."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    rights = int(fields["CapEff"], 16)
    allowed = Path("/proc/self/setgroups").read_text().strip() == "allow"
    return allowed and all(rights >> capability & 1 for capability in (SETGID, SETUID))


def _maps(path: Path, first: int, number: int) -> bool:
    """Whether an id map (user_namespaces(7)) has all of a range."""
    rows = [[int(word) for word in line.split()] for line in path.read_text().splitlines()]
    return any(start <= first and first + number <= start + length for start, _, length in rows)
