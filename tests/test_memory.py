"""That the trainer keeps the memory it frees, by the kernel's own count of page faults."""

import json
import os
import resource
import subprocess
import sys

import pytest

from grpo import loop
from grpo.config import load
from grpo.display import Display

PASSES = """
import ctypes, json, resource, sys, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, where the machine has them for everybody
from grpo.memory import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
told = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(48 * 2**20, dtype=torch.uint8) for _ in range(4)]
    del kept
    told.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(told))
"""
PAGES = 4 * 48 * 2**20 // resource.getpagesize()
"""In what a pass allocates."""


@pytest.mark.parametrize("kept", ["kept", "not"])
def test_a_pass_gets_the_memory_of_those_before(kept: str) -> None:
    """In a process of its own. Aligned blocks fit into freed ones after some passes only; without it, glibc maps blocks
    of more than 32 MiB anew each time."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run([sys.executable, "-c", PASSES, kept], env=own, capture_output=True, text=True, check=True)
    first, *later = json.loads(found.stdout)
    assert first > 0.9 * PAGES
    if kept == "kept":
        assert max(later[-3:]) < 0.01 * PAGES
    else:
        assert min(later) > 0.9 * PAGES


def test_a_training_on_a_cpu_keeps_it(tiny_run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def ask() -> None:
        raise Asked

    monkeypatch.setattr(loop, "keep_freed", ask)
    with pytest.raises(Asked):
        loop.run(load(tiny_run("unused")), Display(quiet=True))
