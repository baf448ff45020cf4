"""The child process that runs the user's reward function. Standard library only; runs by path, isolated (``-I``).

    python -I reward_host.py REQUEST_FD ANSWER_FD REWARD_FILE HANDLER MEMORY_BYTES

Each request is a line of JSON on one descriptor, {"serial": n, "event": [...]}; each answer a line on the other, with
the same serial and "ok": value or "error": text. The first answer, serial 0, says whether the file could be loaded.
What the user's code prints goes to its own standard output and error, never into the protocol. Touches: user code.
"""

import ctypes
import importlib.util
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

PR_SET_PDEATHSIG = 1


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


def answer(function: Callable[[Any, Any], Any], request: Any, context: Any) -> str:
    """One reply line. What the function raises, SystemExit included, is its result, not our end."""
    serial = request["serial"]
    try:
        return json.dumps({"serial": serial, "ok": function(request["event"], context)})
    except (Exception, SystemExit):
        return json.dumps({"serial": serial, "error": traceback.format_exc(limit=-3)})


def main() -> None:
    request_fd, answer_fd, path, handler, memory = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        sys.argv[4],
        int(sys.argv[5]),
    )
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # user code must not outlive the trainer
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests = os.fdopen(request_fd, "r", encoding="utf-8")
    answers = os.fdopen(answer_fd, "w", encoding="utf-8")
    os.set_inheritable(request_fd, False)
    os.set_inheritable(answer_fd, False)
    try:
        function = load(path, handler)
    except (Exception, SystemExit):
        answers.write(json.dumps({"serial": 0, "error": traceback.format_exc(limit=-3)}) + "\n")
        return answers.flush()
    answers.write(json.dumps({"serial": 0, "ok": None}) + "\n")
    answers.flush()
    context = SimpleNamespace(function_name=handler, function_version="$LATEST", memory_limit_in_mb=memory >> 20)
    for line in requests:
        answers.write(answer(function, json.loads(line), context) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
