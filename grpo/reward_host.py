"""The child process that runs the user's reward function. Standard library only; runs by path, isolated (``-I``).

    python -I reward_host.py OPTIONS_JSON

Each request is a line of JSON on one descriptor, {"serial": n, "event": [...], "timeout": s}; each answer a line on the
other, with the same serial and "ok": value or "error": text, and "timed_out". The first answer, serial 0, says whether
the file could be loaded. The file is loaded once; every request is answered by a fork of this process, so none sees
what another left behind, and one that hangs is killed alone. What the user's code prints goes to standard output and
error, never into the protocol. Touches: user code.
"""

import ctypes
import errno
import importlib.util
import json
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 1, 38, 22, 4, 8
CAPABILITY_VERSION, CAP_DAC_READ_SEARCH = 0x20080522, 1 << 2
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_SCOPES = 6
"""The version from which no signal and no abstract socket reaches beyond the sandbox."""
READ_RIGHTS, ALL_RIGHTS = 0b1101, 0b111_1111_1111_1111
"""Execute, read file, read directory; and all that Landlock's third version knows, truncation included."""
MOST_BYTES, MOST_BYTES_EACH = 2**20, 2**16
"""Of an answer, and for each sample in it."""
MOST_THREADS, MOST_FILES, LARGEST_FILE, LONGEST_ERROR = 64, 256, 64 * 2**20, 4000
CLONE_THREAD = 0x00010000
SYSCALLS = {"x86_64": (56, 57, 58, 59, 322, 62, 200, 234), "aarch64": (220, 221, 281, 129, 130, 131)}
"""clone first; then fork, vfork, execve, execveat; kill, tkill, tgkill."""
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

libc = ctypes.CDLL(None, use_errno=True)


def load(path: str, handler: str) -> Callable[[Any, Any], Any]:
    """The handler function of the user's file."""
    spec = importlib.util.spec_from_file_location("reward_file", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec.loader.exec_module(module)
    function = getattr(module, handler, None)
    if not callable(function):
        raise AttributeError(f"{path} has no function {handler}(event, context)")
    return function  # type: ignore[no-any-return]


def contain(options: dict[str, Any]) -> None:
    """Limits, no root, Landlock and the filter, as far as the level has them; irreversible."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # user code must not outlive the trainer
    memory = options["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    if options["uid"]:
        give_up_root(options["uid"])
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of uid clears it
    if options["level"] != "weak":
        tasks = MOST_THREADS + (own_tasks() if options["level"] == "medium" and not options["uid"] else 0)
        resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # a batch must not write into our memory by way of /proc
    if options["level"] == "medium":
        restrict_files(options["readable"], options["home"])
        with os.fdopen(options["filter"], "rb") as program:
            install(program.read())


def own_tasks() -> int:
    """Threads of this user: outside a namespace the limit counts them all."""
    found = 0
    for process in os.scandir("/proc"):
        try:
            if process.name.isdigit() and process.stat().st_uid == os.getuid():
                found += len(os.listdir(f"{process.path}/task"))
        except OSError:
            continue  # it ended
    return found


def give_up_root(uid: int) -> None:
    """Become ``uid``, and keep of root's powers only that of reading what the sandbox shows: root's own files."""
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    _checked(libc.capset(header, struct.pack("6I", CAP_DAC_READ_SEARCH, CAP_DAC_READ_SEARCH, 0, 0, 0, 0)))


def restrict_files(readable: list[str], home: str) -> None:
    """Landlock: read what is listed, write below ``home``, nothing else. Raises OSError."""
    attributes = struct.pack("Q", ALL_RIGHTS)
    if libc.syscall(LANDLOCK_CREATE, None, 0, 1) >= LANDLOCK_SCOPES:
        attributes = struct.pack("QQQ", ALL_RIGHTS, 0, 0b11)
    ruleset = _checked(libc.syscall(LANDLOCK_CREATE, attributes, len(attributes), 0))
    places = [*((path, READ_RIGHTS) for path in readable), (home, ALL_RIGHTS), ("/dev/null", 0b110)]
    for path, rights in places:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        directory = os.path.isdir(path)
        rule = struct.pack("=Qi", rights if directory else rights & (0b111 | 1 << 14), parent)
        _checked(libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0))
        os.close(parent)
    _checked(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0))
    os.close(ruleset)


def no_processes() -> None:
    """From here on threads only, and no signals: clone without CLONE_THREAD and all the others of SYSCALLS fail."""
    machine = os.uname().machine
    clone, *others = SYSCALLS[machine]
    refuse, allow = 0x00050000 | errno.EPERM, 0x7FFF0000
    # (code, if true, if false, k); struct seccomp_data has the number at 0, the architecture at 4, arguments from 16
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, ARCHITECTURE[machine]), (0x06, 0, 0, refuse), (0x20, 0, 0, 0)]
    for number in others:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, refuse)]
    program += [(0x15, 1, 0, clone), (0x06, 0, 0, allow), (0x20, 0, 0, 16), (0x45, 1, 0, CLONE_THREAD)]
    program += [(0x06, 0, 0, refuse), (0x06, 0, 0, allow)]
    install(b"".join(struct.pack("HBBI", *line) for line in program))


def install(program: bytes) -> None:
    """Hand a filter to the kernel. Raises OSError."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def run_batch(
    function: Callable[[Any, Any], Any], request: Any, context: Any, write_to: int, options: dict[str, Any]
) -> NoReturn:
    """In the fork: call the function and write the reply. What it raises, SystemExit included, is its result."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(options["requests"])
    os.close(options["answers"])
    serial = request["serial"]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what it prints before it dies is kept
    try:
        if options["level"] != "weak":
            no_processes()
        reply = json.dumps({"serial": serial, "ok": function(request["event"], context)})
    except (Exception, SystemExit) as error:
        text = traceback.format_exc(limit=-3)[-LONGEST_ERROR:]
        named = {"type": type(error).__name__, "message": str(error)[-LONGEST_ERROR:]}
        reply = json.dumps({"serial": serial, "error": text, **named})
    with os.fdopen(write_to, "wb") as pipe:
        pipe.write(reply.encode() + b"\n")
    sys.stdout.flush()
    os._exit(0)


def count(event: Any) -> int:
    """Samples in an event."""
    return len(event) if isinstance(event, list) else 1


def answer(function: Callable[[Any, Any], Any], request: Any, context: Any, options: dict[str, Any]) -> bytes:
    """One reply line, from a fork of this process that ends with it."""
    most = MOST_BYTES + MOST_BYTES_EACH * count(request["event"])
    read_from, write_to = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(read_from)
        os.close(write_to)
        return json.dumps({"serial": request["serial"], "error": f"no process for the batch: {error}"}).encode() + b"\n"
    if child == 0:
        os.close(read_from)
        run_batch(function, request, context, write_to, options)
    os.close(write_to)
    deadline = time.monotonic() + request["timeout"]
    try:
        reply = collect(read_from, deadline, most)
    finally:
        os.close(read_from)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    problem, timed_out = None, False
    if reply is None:
        problem, timed_out = f"no answer within reward.timeout_s = {request['timeout']:g} s", True
    elif len(reply) > most:
        problem = f"the answer is larger than {most} bytes"
    elif not reply.endswith(b"\n") or reply.count(b"\n") > 1:
        problem = f"the reward function's process {ending(status)}"
    if problem:
        return json.dumps({"serial": request["serial"], "error": problem, "timed_out": timed_out}).encode() + b"\n"
    assert reply is not None
    return reply


def tidy(scratch: str, kept: frozenset[str]) -> None:
    """Remove what a batch left, for the next to find or to lack space by; ``kept``: what lay there from the start.

    Directories are brought up to the top before they are emptied: a tree may be deeper than a path can say.
    """
    pending = [scratch]
    for number, place in enumerate(pending):
        try:
            for at, entry in enumerate(list(os.scandir(place))):
                if place == scratch and entry.name in kept:
                    continue
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                else:
                    top = f"{scratch}/tidy-{number}-{at}"
                    os.rename(entry.path, top)
                    pending.append(top)
            if place != scratch:
                os.rmdir(place)
        except OSError:
            continue  # the batch took its own rights away; the space is bounded


def collect(source: int, deadline: float, most: int) -> bytes | None:
    """All a pipe brings until it is closed, a little more than ``most`` bytes at most; None at the deadline."""
    found = bytearray()
    while len(found) <= most:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        chunk = os.read(source, 65536)
        found += chunk
        if not chunk:
            break
    return bytes(found)


def ending(status: int) -> str:
    """How a process ended without an answer."""
    if os.WIFSIGNALED(status):
        return f"was ended by signal {os.WTERMSIG(status)} (out of memory, a limit, or a crash)"
    return f"ended with code {os.WEXITSTATUS(status)} (os._exit or a crash)"


def main() -> None:
    options = json.loads(sys.argv[1])
    requests, answers = options["requests"], options["answers"]
    os.set_inheritable(requests, False)
    os.set_inheritable(answers, False)
    contain(options)
    kept = frozenset(os.listdir(options["scratch"]))
    lines = os.fdopen(requests, "r", encoding="utf-8", closefd=False)
    os.environ.update(json.loads(lines.readline()))
    try:
        function = load(options["file"], options["handler"])
    except (Exception, SystemExit):
        reply = json.dumps({"serial": 0, "error": traceback.format_exc(limit=-3)})
        os.write(answers, reply.encode()[-60_000:] + b"\n")
        return
    write_all(answers, json.dumps({"serial": 0, "ok": None}).encode() + b"\n")
    context = context_of(options)
    for line in lines:
        request = json.loads(line)
        context.aws_request_id = request.get("request_id", "local")
        until = time.monotonic() + request["timeout"]
        context.get_remaining_time_in_millis = lambda until=until: max(0, int(1000 * (until - time.monotonic())))
        write_all(answers, answer(function, request, context, options))
        tidy(options["scratch"], kept)


def context_of(options: dict[str, Any]) -> SimpleNamespace:
    """What Lambda tells a handler (docs.aws.amazon.com/lambda/latest/dg/python-context.html)."""
    name, region = (
        os.environ.get("AWS_LAMBDA_FUNCTION_NAME", options["name"]),
        os.environ.get("AWS_REGION", "us-west-2"),
    )
    told = {"function_name": name, "function_version": "$LATEST", "log_group_name": f"/aws/lambda/{name}"}
    told["invoked_function_arn"] = f"arn:aws:lambda:{region}:123456789012:function:{name}"
    return SimpleNamespace(**told, memory_limit_in_mb=options["memory"] >> 20, log_stream_name="local")


def write_all(target: int, content: bytes) -> None:
    """A pipe may take less than it is offered."""
    while content:
        content = content[os.write(target, content) :]


if __name__ == "__main__":
    main()
