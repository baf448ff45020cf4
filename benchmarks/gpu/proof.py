"""What only a GPU can show, in one command: ``make gpu-proof``. The result file names the card.

    .venv/bin/python benchmarks/gpu/proof.py [--device cuda] [--model configs/models/qwen3-0.6b] [--out FILE]

Updates: random weights in the shape of a real model; memory and time do not depend on their values. Trainings: a few
steps of the demo with each sampler that is installed, its sync proved at the start. On a CPU (``--device cpu``)
everything runs but the memory figures, which is how it is tested.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from grpo_kernels import choose, linear_logp_jac
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from grpo import engine
from grpo.placement import BF16, GIB, trainer_parts
from grpo.policy import Policy, lora_settings
from grpo.reading import Reader
from grpo.sections import Lora, Update
from grpo.shapes import Shape, shape_of
from grpo.types import Sequence
from grpo.update import Updater

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 3
PROMPT, COMPLETION, GROUP = 128, 384, 8
"""Tokens, tokens, completions of one prompt."""


def main() -> None:
    """All parts, then the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, default=Path("configs/models/qwen3-0.6b"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--trained", type=Path, default=ROOT / ".cache" / "models" / "smollm2-135m-instruct")
    parser.add_argument("--samplers", nargs="+", default=["transformers", *(["vllm"] if engine.installed() else [])])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    given = parser.parse_args()
    device = torch.device(given.device)
    results: dict[str, Any] = {"machine": machine(device), "model": given.model.name}
    results["kernel"] = part("kernel", lambda: kernel_errors(device))
    shape, policy = shape_of(given.model, Lora(rank=32)), random_policy(given.model, device)
    results["updates"] = [
        part(
            f"{tokens} tokens, recompute {again}", lambda t=tokens, r=again: updates(policy, shape, t, r, given.groups)
        )
        for tokens in given.tokens
        for again in (False, True)
    ]
    results["out of memory"] = part("out of memory", lambda: out_of_memory(policy, device))
    results["trainings"] = {
        name: part(f"training with {name}", lambda s=name: training(given.trained, s, device))
        for name in given.samplers
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    sys.exit(any("failed" in found for found in results["trainings"].values()))


def part(name: str, run: Callable[[], Any]) -> Any:
    """Say what is being done."""
    print(f"== {name}", flush=True)
    return run()


def machine(device: torch.device) -> dict[str, Any]:
    """Card and versions."""
    cuda = device.type == "cuda"
    return {
        "card": torch.cuda.get_device_name(device) if cuda else "none (CPU)",
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / GIB if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def kernel_errors(device: torch.device) -> dict[str, Any]:
    """Largest error of log-probabilities and of the hidden states' gradient against float64, by dtype."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(512, 256, generator=generator, dtype=torch.float64)
    head = torch.randn(4096, 256, generator=generator, dtype=torch.float64) * 0.1
    targets = torch.randint(0, 4096, (512,), generator=generator)
    found = {}
    targets_there, old = targets.to(device), torch.full((512,), -8.0, device=device)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        hidden = exact.to(device, dtype).requires_grad_()
        rounded = head.to(device, dtype)
        with no_waits(device):
            logp, _ = linear_logp_jac(hidden, rounded, targets_there, 0.9, old, choose("auto", device))
            logp.sum().backward()
        truth = hidden.detach().double().requires_grad_()
        wanted = (truth @ rounded.double().T / 0.9).log_softmax(-1).gather(1, targets_there[:, None])[:, 0]
        wanted.sum().backward()
        assert hidden.grad is not None
        assert truth.grad is not None
        found[str(dtype)] = {
            "logprob": float((logp.double() - wanted).abs().max()),
            "gradient": float((hidden.grad.double() - truth.grad).abs().max()),
            "worst row": float(((hidden.grad.double() - truth.grad).norm(dim=1) / truth.grad.norm(dim=1)).max()),
        }
    return found


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """On CUDA: an error where the host waits for the card, which only the plain kernels may do."""
    mode = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(mode)


class NoTokenizer:
    """Random weights have no words."""

    chat_template = ""


def random_policy(model: Path, device: torch.device) -> Policy:
    """Random bf16 weights with a fresh adapter of rank 32."""
    config = AutoConfig.from_pretrained(model)
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).requires_grad_(False)
    base.gradient_checkpointing_enable({"use_reentrant": False})
    peft = get_peft_model(base, lora_settings(Lora(rank=32)), autocast_adapter_dtype=True)
    return Policy(
        peft.to(device).eval(), model, NoTokenizer(), 1.0, Reader(NoTokenizer(), "none", False), choose("auto", device)
    )  # type: ignore[arg-type]


def sequences(groups: int, vocabulary: int) -> list[Sequence]:
    """Groups of equal shape."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda n: tuple(torch.randint(0, vocabulary, (n,), generator=generator).tolist())  # noqa: E731
    found = []
    for group in range(groups):
        prompt = draw(PROMPT)
        for i in range(GROUP):
            found.append(
                Sequence(
                    group=group,
                    prompt_ids=prompt,
                    completion_ids=draw(COMPLETION),
                    sampler_logprobs=(-11.0,) * COMPLETION,
                    advantage=i - (GROUP - 1) / 2,
                    weight=1.0 / (groups * GROUP * COMPLETION),
                )
            )
    return found


def updates(policy: Policy, shape: Shape, tokens: int, recompute: bool, groups: int) -> dict[str, Any]:
    """Seconds and peak memory of whole updates, beside what the plan says."""
    config = Update(tokens_per_microbatch=tokens, gradient_checkpointing=recompute, warmup_steps=0)
    updater = Updater(policy, config, Accelerator(cpu=policy.device.type == "cpu"), 100)
    rows = sequences(groups, shape.vocabulary)
    seconds, peaks = [], []
    for step in range(REPEATS):
        if policy.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        stats = updater.step(rows, step)
        peaks.append(torch.cuda.max_memory_allocated() / GIB if policy.device.type == "cuda" else None)
        seconds.append(time.monotonic() - started)
    row = min(tokens, PROMPT + GROUP * COMPLETION)
    planned = trainer_parts(shape, tokens, recompute, BF16, row)
    return {
        "tokens_per_microbatch": tokens,
        "recompute": recompute,
        "seconds": {"median": median(seconds), "least": min(seconds), "most": max(seconds)},
        "tokens_per_second": stats.trained_tokens / median(seconds),
        "peak_gib": peaks[-1],
        "planned_gib": (sum(planned.values()) - planned["process"]) / GIB,
        "used_tokens_per_microbatch": stats.tokens_per_microbatch,
    }


def out_of_memory(policy: Policy, device: torch.device) -> dict[str, Any] | None:
    """A micro-batch no card holds, on little memory: the update must come through with a smaller one."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (total - free + 12 * GIB) / total))
    config = Update(tokens_per_microbatch=65536, warmup_steps=0)
    updater = Updater(policy, config, Accelerator(), 100)
    stats = updater.step(sequences(16, policy.head.shape[0]), 0)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return {"asked": 65536, "used": stats.tokens_per_microbatch, "trained_tokens": stats.trained_tokens}


def training(model: Path, sampler: str, device: torch.device) -> dict[str, Any]:
    """``grpo train`` on the demo's prompts: what the proof of the sync found, and the last step's speed."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        words = [sys.executable, "-m", "grpo.train", "configs/demo.toml", f"run.dir={run}", f"model.path={model}"]
        words += [f"run.steps={REPEATS}", f"rollout.sampler={sampler}", "data.test=configs/demo/heldout.jsonl"]
        words += ["evaluate.test_completions_per_prompt=1"]
        done = subprocess.run(words, cwd=ROOT, env=os.environ | hidden, capture_output=True, text=True)
        if done.returncode:
            return {"failed": done.stdout[-2000:] + done.stderr[-2000:]}
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    found = {event["event"]: event["noise"] for event in events if event["event"].startswith("sync_proved")}
    names = ("seconds", "seconds_sampling", "seconds_update", "sync_seconds", "sampled_tokens", "sampler_gap_mean")
    return found | {name: last[name] for name in names}


if __name__ == "__main__":
    main()
