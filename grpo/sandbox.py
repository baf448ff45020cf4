"""Where reward code runs: what this machine offers to contain it, and the command line that does.

    strong   bubblewrap (own mounts, processes, network), seccomp, limits, no root inside
    medium   Landlock (no writes and few reads), seccomp, limits
    weak     limits only

The level is detected, shown and recorded; it is never lowered without being asked (docs/sandbox.md).
Touches: processes.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from grpo import reward_host, syscalls, users
from grpo.errors import SetupError

Level = Literal["strong", "medium", "weak"]
LEVELS: tuple[Level, ...] = ("strong", "medium", "weak")
SCRATCH_BYTES = 64 * 2**20
"""Of /tmp inside the strong level."""
LANDLOCK_VERSION = 444, 1
"""System call and flag that ask for it."""
NEEDED = 3
"""The version that covers truncation."""
RESOLVER = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl/certs", "/etc/ssl/openssl.cnf")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
ROOT_KEEPS = [word for name in ("SETUID", "SETGID", "DAC_READ_SEARCH") for word in ("--cap-add", f"CAP_{name}")]


@dataclass(frozen=True, slots=True)
class Box:
    """A command line and the descriptors it must inherit."""

    words: list[str]
    inherited: list[int]
    level: Level


def why_not(level: Level) -> str | None:
    """What this machine lacks for a level; None where it has everything."""
    if level == "weak":
        return None
    if not syscalls.available():
        return "libseccomp is missing (Debian: libseccomp2)"
    if not users.draw() and not users.limits_hold():
        return "this root can become no other user, and no limit on processes would hold for it"
    return _without_bubblewrap() if level == "strong" else _without_landlock()


@cache
def strongest() -> Level:
    """The best level of this machine."""
    return next(level for level in LEVELS if why_not(level) is None)


def choose(wanted: str) -> Level:
    """``auto`` is the strongest. Raises SetupError when the machine cannot do what was asked."""
    if wanted == "auto":
        return strongest()
    level = next(known for known in LEVELS if known == wanted)
    if reason := why_not(level):
        raise SetupError(f"reward.sandbox = {wanted}: {reason}. This machine has: {strongest()}")
    return level


def box(level: Level, code: Path, home: Path, *, network: bool, options: dict[str, Any]) -> Box:
    """The command that runs reward_host.py with ``options`` at ``level``.

    ``code`` is readable, ``home`` a scratch directory; the caller closes what is to be inherited.
    """
    uid = 0 if level == "weak" else users.draw()
    filters = [] if level == "weak" else [syscalls.write_filter(network, own_files=level == "strong")]
    options = options | {
        "level": level,
        "uid": uid,
        "home": str(home),
        "scratch": "/tmp" if level == "strong" else str(home),
        "readable": readable(code, network),
    }
    if level == "medium":
        options["filter"] = filters[0]
        if uid:
            os.chown(home, uid, uid)
    words = [sys.executable, "-I", "-B", reward_host.__file__, json.dumps(options)]
    if level == "strong":
        words = [*_bubblewrap(code, network, uid), "--seccomp", str(filters[0]), "--", *words]
    return Box(words, filters, level)


def _bubblewrap(code: Path, network: bool, uid: int) -> list[str]:
    program = shutil.which("bwrap")
    assert program is not None
    words = [program, "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    words += [] if network else ["--unshare-net"]
    # root gives up its uid inside, which a user namespace would only pretend: limits per user do not hold for root
    words += ["--cap-drop", "ALL", *(ROOT_KEEPS if uid else ["--unshare-user"])]
    words += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    words += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"]
    for path in readable(code, network):
        for parent in reversed(list(Path(path).parents)[:-1]):
            if str(parent) != "/tmp":
                words += ["--perms", "0755", "--dir", str(parent)]
        words += ["--ro-bind", path, path]
    return [
        *words,
        "--remount-ro",
        "/",
        "--remount-ro",
        "/dev",
        "--chdir",
        "/tmp",
        "--setenv",
        "HOME",
        "/tmp",
        "--setenv",
        "LANG",
        "C.UTF-8",
    ]


def readable(code: Path, network: bool) -> list[str]:
    """What reward code may read: the system's programs, Python with its packages, and its own directory."""
    ours = {sys.prefix, sys.base_prefix, str(Path(reward_host.__file__).resolve()), str(code.resolve())}
    under_system = [path for path in ours if any(path.startswith(f"{place}/") for place in SYSTEM)]
    return [
        *(p for p in (*SYSTEM, *(RESOLVER if network else ())) if os.path.lexists(p)),
        *sorted(ours - set(under_system)),
    ]


def _without_bubblewrap() -> str | None:
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is missing (Debian: apt-get install bubblewrap)"
    trial = [program, "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc", "--", "/bin/true"]
    if not users.draw():
        trial.insert(1, "--unshare-user")
    done = subprocess.run(trial, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if restricted.exists() and restricted.read_text().strip() == "1":
        return "AppArmor forbids user namespaces: as root, sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    return f"bubblewrap does not work here: {done.stderr.strip()[:200]}"


def _without_landlock() -> str | None:
    call, version = LANDLOCK_VERSION
    supported = ctypes.CDLL(None, use_errno=True).syscall(call, None, 0, version)
    return (
        None if supported >= NEEDED else "the kernel has no Landlock that covers truncation (6.2 or newer, and enabled)"
    )
