"""Where a step's time goes beside sampling: the update, the file of a merged sync, the checkpoint; and, of one update,
the operators that take longest. On a CPU, in one process, interleaved; medians and ranges.

    .venv/bin/python benchmarks/step/parts.py [--compiled] [--rounds 5] [--out FILE]

The update is the race's: 3,072 trained tokens in eight groups, bf16. With ``--compiled`` the first one takes a minute.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from accelerate import Accelerator
from grpo_kernels import choose
from microbatch import policy_of, sequences
from race import ROOT, cpu
from torch.profiler import ProfilerActivity, profile

from grpo.checkpoint import Checkpoints
from grpo.compilation import compile_layers
from grpo.memory import keep_freed
from grpo.policy import Policy
from grpo.sections import Update
from grpo.update import Updater

SHOWN = 20
"""Operators."""


def main() -> None:
    """Parts in rounds, then the operators; printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    keep_freed()
    policy = policy_of("bfloat16", "ours")
    if given.compiled:
        policy.kernels = choose("plain", policy.device, compiled=True)
        compile_layers(policy)
    with tempfile.TemporaryDirectory() as scratch:
        parts = parts_of(policy, Path(scratch))
        found: dict[str, Any] = {"machine": cpu(), "compiled": given.compiled, "seconds": timed(parts, given.rounds)}
        found["operators"] = operators(parts["update"])
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    (given.out or ROOT / "benchmarks" / "results" / f"parts-cpu{'-compiled' * given.compiled}.json").write_text(text)


def parts_of(policy: Policy, scratch: Path) -> dict[str, Callable[[], object]]:
    """What is done after sampling, by name."""
    updater = Updater(policy, Update(tokens_per_microbatch=4096, warmup_steps=0), Accelerator(cpu=True), 10)
    checkpoints, step = Checkpoints(scratch), sequences(groups=8)
    return {
        "update": lambda: updater.step(step, 0),
        "file of a merged sync": lambda: policy.save_merged(scratch / "merged.safetensors", "step"),
        "checkpoint": lambda: checkpoints.save(1, policy, updater, []),
    }


def timed(parts: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Of each part the median, the least and the most; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds + 1):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            times[name].append(time.perf_counter() - started)
    counted = {name: found[1:] for name, found in times.items()}
    return {n: {"median": median(t), "least": min(t), "most": max(t)} for n, t in counted.items()}


def operators(part: Callable[[], object]) -> dict[str, dict[str, float]]:
    """Of one run of ``part``: CPU-seconds of its first thread within an operator itself, and how often it ran."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        part()
    longest = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)[:SHOWN]
    return {e.key: {"seconds": e.self_cpu_time_total / 1e6, "times": e.count} for e in longest}


if __name__ == "__main__":
    main()
