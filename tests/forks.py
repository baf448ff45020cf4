"""A process that has loaded the slow libraries once and runs pytest in forks of itself: seconds saved for every run.

    python tests/forks.py < lines        a line: JSON list of pytest's arguments; answered by a line, the exit status

Nothing of the project is loaded before a fork, so each run reads the sources as they are by then. Triton, which some of
the libraries load, is in its interpreter's form, as conftest.py wants it.
"""

import json
import os
import signal
import sys
from importlib import import_module

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "hypothesis", "pydantic", "scipy.stats")
MOST_SECONDS = 300
"""A fault may make a loop endless; an alarm ends it."""


def status_of(arguments: list[str]) -> int:
    """Of pytest in a fork; negative: the signal that ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    out = os.open(os.devnull, os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.alarm(MOST_SECONDS)
    import pytest

    os._exit(pytest.main(arguments))


def main() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    import_module("triton.experimental.gluon")
    del os.environ["TRITON_INTERPRET"]
    for name in LIBRARIES:
        import_module(name)
    for line in sys.stdin:
        print(status_of(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
