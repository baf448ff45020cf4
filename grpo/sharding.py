"""The frozen base split over ranks (FSDP2): each holds a share of every layer and gathers a layer when it is its turn.

The adapter stays whole on every rank: it is small, and its gradients are summed as without sharding, so nothing else in
the trainer changes. Embeddings, head and final norm stay whole, too. Layers have no gradient of their own, so nothing
is scattered back. Source: Zhao et al., PyTorch FSDP, arXiv 2304.11277; torch.distributed.fsdp.fully_shard.
Touches: processes (the process group), GPU.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from grpo.errors import SetupError


def shard(model: Any, accelerator: Accelerator) -> None:
    """Split the layers of a PEFT model that is still on the CPU; each goes to the rank's device by itself and shrinks.

    Every rank calls it. Raises SetupError for a single rank.
    """
    ranks = accelerator.num_processes
    if ranks < 2:
        raise SetupError("update.shard_base splits the model over ranks: start several with accelerate launch")
    mesh = init_device_mesh(accelerator.device.type, (ranks,))
    decoder = model.get_base_model().get_decoder()
    whole = {p for p in model.parameters() if p.requires_grad}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    inside = {p for layer in decoder.layers for p in layer.parameters()}
    fully_shard(decoder, mesh=mesh, ignored_params=whole | (set(decoder.parameters()) - inside))


def most(accelerator: Accelerator, count: int) -> int:
    """The largest ``count`` of all ranks: forward passes gather weights, so every rank must make as many."""
    if accelerator.num_processes == 1:
        return count
    counts: Any = accelerator.gather(torch.tensor([count], device=accelerator.device))
    return int(counts.max())
