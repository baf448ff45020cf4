"""Two updates of a policy over ranks, each rank with another number of micro-batches.

    torchrun --nproc_per_node N tests/split_update.py MODEL OUT [short]

The base is split over the ranks; with ``short`` it is whole, there are more groups, and the second rank runs out of
memory with more than 32 tokens. Without torchrun: one rank, whole. Writes the adapter, and how many numbers of a layer
this rank keeps.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from grpo.batch import Batch
from grpo.policy import Policy, TokenScores
from grpo.sections import Lora, Update
from grpo.sharding import shard
from grpo.types import Sequence
from grpo.update import Updater


def sequences(step: int, groups: int) -> list[Sequence]:
    """Groups of unequal sizes: of three two ranks get two and one, in more and fewer micro-batches."""
    generator = torch.Generator().manual_seed(step)
    found = []
    for group in range(groups):
        for member in range(2 + group):
            length = 3 + 4 * member
            found.append(
                Sequence(
                    group=group,
                    prompt_ids=(1, 5 + group, 9, 2),
                    completion_ids=tuple(torch.randint(3, 250, (length,), generator=generator).tolist()),
                    sampler_logprobs=tuple((-3 - torch.rand(length, generator=generator)).tolist()),
                    advantage=float(torch.randn(1, generator=generator)),
                    weight=0.01,
                )
            )
    return found


def run_short(policy: Policy) -> None:
    """Raise what CUDA raises, for all but small micro-batches, once a first one has left its gradients."""
    whole, passes = policy.scores, []

    def scores(batch: Batch, *given: Any) -> TokenScores:
        passes.append(batch)
        if len(passes) > 2 and batch.input_ids_RL.numel() > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(batch, *given)

    policy.scores = scores  # type: ignore[method-assign]


def main(model: Path, out: Path, *, short: bool) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    split = accelerator.num_processes > 1 and not short
    settings = Update(learning_rate=5e-3, minibatches=1, kl_coef=0.1, tokens_per_microbatch=64, shard_base=split)
    policy = Policy.load(
        model,
        dtype="float32",
        lora=Lora(rank=8),
        seed=0,
        temperature=0.9,
        device=accelerator.device,
        prepare=(lambda peft: shard(peft, accelerator)) if split else lambda _: None,
    )
    last = accelerator.process_index > 0
    if short and last:
        run_short(policy)
    updater = Updater(policy, settings, accelerator, budget=10)
    stats = [updater.step(sequences(step, 6 if short else 3), step) for step in range(2)]
    weight = policy.model.get_base_model().get_decoder().layers[0].mlp.gate_proj.base_layer.weight
    kept = weight.to_local().numel() if split else weight.numel()
    if accelerator.is_main_process:
        save_file(policy.adapter_state(), out)
        numbers = [[s.pg_loss, s.grad_norm, s.kl, s.entropy, s.trained_tokens] for s in stats]
        out.with_suffix(".json").write_text(json.dumps({"kept": kept, "stats": numbers}))
    if short and last:
        assert updater.tokens < settings.tokens_per_microbatch, "memory ran out"
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), short="short" in sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as grpo/train.py, and for its reason
