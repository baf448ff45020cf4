"""What this process held at its peak. Touches: the process, the device."""

import resource

import torch

GIB = 2**30


def peak_gib(device: torch.device) -> float:
    """GiB since its start: what torch allocated on a GPU, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
