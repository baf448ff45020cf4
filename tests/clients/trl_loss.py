"""TRL's own GRPO loss on tensors from standard input; loss and gradient on standard output. Runs beside TRL, not us.

stdin:  JSON list of {kind, settings, advantages [B], and [B][T]: logprobs, old, sampler, reference, mask}
stdout: JSON list of {"loss": ..., "gradient": [B][T]}
"""

import json
import sys
from collections import defaultdict
from types import SimpleNamespace

import torch
from trl.trainer.grpo_trainer import GRPOTrainer


def compute(case: dict) -> dict:
    tensors = {
        n: torch.tensor(case[n], dtype=torch.float64) for n in ("logprobs", "old", "sampler", "reference", "mask")
    }
    logprobs = tensors["logprobs"].requires_grad_()
    settings = case["settings"]
    rows, length = logprobs.shape
    identity = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1, sync_gradients=True)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="sequence" if case["kind"] == "gspo" else "token",
        beta=settings["kl_coef"],
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        loss_type="grpo" if case["kind"] == "gspo" else case["kind"],
        epsilon_low=settings["clip_low"],
        # TRL's cispo takes the cap itself, the others the distance from 1
        epsilon_high=settings["clip_high"] + (case["kind"] == "cispo"),
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=settings["max_tokens"],
        accelerator=identity,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.zeros(rows, 1),
        "prompt_mask": torch.ones(rows, 1),
        "completion_ids": torch.zeros(rows, length),
        "completion_mask": tensors["mask"],
        "advantages": torch.tensor(case["advantages"], dtype=torch.float64),
        "old_per_token_logps": tensors["old"],
        "ref_per_token_logps": tensors["reference"],
        "importance_sampling_ratio": (tensors["old"] - tensors["sampler"]).exp().clamp(max=settings["importance_cap"]),
        "num_items_in_batch": tensors["mask"].sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return {"loss": loss.item(), "gradient": logprobs.grad.tolist()}


print(json.dumps([compute(case) for case in json.load(sys.stdin)]))
