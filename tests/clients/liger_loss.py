"""Liger's fused linear GRPO loss on tensors from standard input: loss and gradient on standard output.

Runs beside Liger, not us.

stdin:  JSON list of {kind, settings, temperature, head [V][H], hidden [B][T][H], advantages [B],
        and [B][T]: tokens, mask, old, sampler, reference}
stdout: JSON list of {"loss": ..., "gradient": [B][T][H]}
"""

import json
import sys

import torch
from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss


def compute(case: dict) -> dict:
    floats = {
        name: torch.tensor(case[name]) for name in ("hidden", "head", "advantages", "old", "sampler", "reference")
    }
    hidden, settings = floats["hidden"].requires_grad_(), case["settings"]
    loss_of = LigerFusedLinearGRPOLoss(
        beta=settings["kl_coef"],
        compiled=False,
        use_ref_model=True,
        epsilon_low=settings["clip_low"],
        # Liger's cispo takes the cap itself, the others the distance from 1
        epsilon_high=settings["clip_high"] + (case["kind"] == "cispo"),
        loss_type="grpo" if case["kind"] == "gspo" else case["kind"],
        max_completion_length=settings["max_tokens"],
        importance_sampling_level="sequence" if case["kind"] == "gspo" else "token",
        temperature=case["temperature"],
    )
    loss, _ = loss_of(
        hidden,
        floats["head"],
        torch.tensor(case["tokens"]),
        torch.tensor(case["mask"]),
        floats["advantages"],
        ref_per_token_logps=floats["reference"],
        old_per_token_logps=floats["old"],
        vllm_is_ratio=(floats["old"] - floats["sampler"]).exp().clamp(max=settings["importance_cap"]),
    )
    loss.backward()
    return {"loss": loss.item(), "gradient": hidden.grad.tolist()}


print(json.dumps([compute(case) for case in json.load(sys.stdin)]))
