"""One forward and backward pass of a micro-batch on a CPU: attention by rows and by blocks, PEFT's adapter and ours.

All four in one process, interleaved; medians and ranges. Writes benchmarks/results/microbatch-cpu.json.

    python benchmarks/step/microbatch.py [ROUNDS]
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from peft import get_peft_model

from grpo.attention import Form, use_blocks
from grpo.batch import Batch, pack
from grpo.policy import Policy, load_base, load_tokenizer, lora_settings
from grpo.sections import Lora
from grpo.types import Sequence

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
GROUPS, GROUP, PROMPT, COMPLETION = 2, 8, 38, 48
"""As in the race with TRL; 844 tokens in two rows."""
FORMS: tuple[Form, ...] = ("rows", "blocks")
ADAPTERS = ("peft", "ours")


def policy_of(dtype: str, adapter: str) -> Policy:
    """``peft``: with the layers PEFT makes by itself."""
    base = load_base(MODEL, dtype)
    use_blocks(base)
    torch.manual_seed(0)
    settings = lora_settings(Lora(rank=16), packed=adapter == "peft")
    model = get_peft_model(base, settings, autocast_adapter_dtype=True)
    return Policy(model.eval(), MODEL, load_tokenizer(MODEL), 1.0)


def sequences(groups: int = GROUPS) -> list[Sequence]:
    """Of random tokens."""
    draw = torch.Generator().manual_seed(0)
    ids = lambda n: tuple(torch.randint(100, 40000, (n,), generator=draw).tolist())  # noqa: E731
    prompts = [ids(PROMPT) for _ in range(groups)]
    return [
        Sequence(
            group=group,
            prompt_ids=prompts[group],
            completion_ids=ids(COMPLETION),
            sampler_logprobs=(-8.0,) * COMPLETION,
            advantage=1.0,
            weight=0.01,
        )
        for group in range(groups)
        for _ in range(GROUP)
    ]


def seconds(policy: Policy, packed: Batch, form: Form) -> float:
    started = time.perf_counter()
    policy.scores(packed, form=form).logprobs.sum().backward()
    return time.perf_counter() - started


def measure(dtype: str, rounds: int) -> dict[str, dict[str, float]]:
    """Of each combination the median, the least and the most, after one pass that does not count."""
    (packed,), policies = pack(sequences(), 4096), {adapter: policy_of(dtype, adapter) for adapter in ADAPTERS}
    times: dict[str, list[float]] = {f"{form}, {adapter}": [] for form in FORMS for adapter in ADAPTERS}
    for _ in range(rounds + 1):
        for form in FORMS:
            for adapter in ADAPTERS:
                times[f"{form}, {adapter}"].append(seconds(policies[adapter], packed, form))
    counted = {name: found[1:] for name, found in times.items()}
    return {n: {"median": statistics.median(t), "least": min(t), "most": max(t)} for n, t in counted.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    found = {dtype: measure(dtype, rounds) for dtype in ("bfloat16", "float32")}
    for dtype, rows in found.items():
        for name, numbers in rows.items():
            print(f"{dtype}  {name:13s} {numbers['median']:.2f} s ({numbers['least']:.2f} to {numbers['most']:.2f})")
    out = ROOT / "benchmarks" / "results" / "microbatch-cpu.json"
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    out.write_text(json.dumps({"rounds": rounds, **machine, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
