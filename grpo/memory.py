"""What this process computes on, and held at its peak. Touches: the process, the device."""

import ctypes
import os
import platform
import resource
from pathlib import Path

import torch

GIB = 2**30
TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed() -> None:
    """Have this process keep the memory it frees, where its C library is glibc.

    A pass on a CPU frees gigabytes that the next one asks for again: without this the kernel takes them back and hands
    them out anew, page by page (docs/log.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(TRIM_THRESHOLD, -1)  # never
        mallopt(MMAP_MAX, 0)


def device_name(device: torch.device) -> str:
    """A card's own name; of a CPU its name and the cores we may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def peak_gib(device: torch.device) -> float:
    """GiB since its start: what torch allocated on a GPU, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
