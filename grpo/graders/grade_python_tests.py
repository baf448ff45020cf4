"""The share of a row's tests that pass on the answer's code, run in the sandbox.

Tests are Python statements: the row's ``tests`` field, a list of strings or one string; each runs in the names that
the code left. An answer that hangs gets 0. Code and tests share a process: a hostile answer can make its own tests
pass, and end the process. Use reward.batch_size = 1 so that it cannot touch its neighbours'.
options: all (false; true gives 1 only where every test passes), seconds (5, for one answer)
"""

import contextlib
import io
import sys
import types

from contract import answer, batch, options, within, without_fence

SETTINGS = options({"all": False, "seconds": 5.0})


def passes(code, names):
    try:
        exec(code, names)
    except BaseException:  # the answer's code is in there and may raise anything, SystemExit included
        return False
    return True


def score(sample):
    tests = sample["metadata"].get("tests")
    tests = [tests] if isinstance(tests, str) else tests
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError("tests: required, a list of Python statements")
    code = without_fence(answer(sample), "python", "py", "python3")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return within(SETTINGS["seconds"], lambda: share(code, tests))


def share(code, tests):
    module = types.ModuleType("answer")  # dataclasses look their module up
    sys.modules["answer"] = module
    if not passes(code, module.__dict__):
        return 0.0
    passed = sum(passes(test, dict(module.__dict__)) for test in tests)
    return float(passed == len(tests)) if SETTINGS["all"] else passed / len(tests)


def lambda_handler(event, context):
    return batch(score, event)
