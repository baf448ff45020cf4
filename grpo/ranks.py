"""What the ranks of a launch tell each other. Only the main rank samples, scores and writes. Touches: processes.

Where the base is split over ranks, no rank can make a forward pass alone: while the main rank works by itself, the
others wait for its result, and join the passes it announces.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from grpo.batch import Batch
from grpo.policy import Policy

Shared = TypeVar("Shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the main rank tells the others: a value, or a batch that all of them must score."""

    value: Any = None
    batch: Batch | None = None


def announce(batch: Batch) -> None:
    """Called by the main rank before a pass of its own over a split base."""
    broadcast_object_list([Said(batch=batch)])


def share(accelerator: Accelerator, policy: Policy, value: Shared | None) -> Shared:
    """The main rank's value, on every rank; the others help meanwhile."""
    if accelerator.num_processes == 1 or accelerator.is_main_process:
        if accelerator.num_processes > 1:
            broadcast_object_list([Said(value=value)])
        assert value is not None
        return value
    while True:
        (said,) = broadcast_object_list([None])
        if said.batch is None:
            shared: Shared = said.value
            return shared
        with torch.no_grad():
            policy.scores(said.batch.to(policy.device))
