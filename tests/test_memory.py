"""That the trainer keeps the memory it frees, by the kernel's own count of page faults."""

import json
import subprocess
import sys

import pytest

PASSES = """
import json, resource, sys, torch
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
PAGES = 4 * 48 * 2**20 // 4096
"""Of 4 KiB, in what a pass allocates."""


@pytest.mark.parametrize("kept", ["kept", "not"])
def test_a_pass_gets_the_memory_of_those_before(kept: str) -> None:
    """In a process of its own. Aligned blocks fit into freed ones after some passes only; without it, glibc maps blocks
    of more than 32 MiB anew each time."""
    output = subprocess.run([sys.executable, "-c", PASSES, kept], capture_output=True, text=True, check=True).stdout
    first, *later = json.loads(output)
    assert first > 0.9 * PAGES
    if kept == "kept":
        assert max(later[-3:]) < 0.01 * PAGES
    else:
        assert min(later) > 0.9 * PAGES
