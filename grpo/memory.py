"""What this process computes on, and held at its peak. Touches: the process, the device."""

import os
import platform
import resource
from pathlib import Path

import torch

GIB = 2**30


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
