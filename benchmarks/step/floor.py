"""The least time a step of race.py can take here: its matmuls, each at the speed this machine multiplies that shape.

    .venv/bin/python benchmarks/step/floor.py [--out FILE]

Counted: layers forward and the gradients of their inputs, in micro-batches as the race trains (a group's prompt once
for its completions), the head's two matmuls, and what sampling multiplies: a prompt once, then a row for each token of
each completion. Not counted: the adapter, attention, everything that is no matmul. Beside it the race's own seconds,
where its result file names a processor of this kind: run it after the race, on the same machine.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from race import MODEL, ROOT, cpu

PROMPTS, PROMPT, COMPLETIONS, TOKENS = 8, 38, 8, 48
"""As in race.py; the prompts of the demo are 38 tokens long with their template."""
ROWS_PER_MICROBATCH = 8
REPEATS = 5


def main() -> None:
    """Seconds by part and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "floor-cpu.json")
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": cpu(), "threads": torch.get_num_threads()}
    raced = json.loads((ROOT / "benchmarks" / "results" / "step-cpu.json").read_text())
    for name in ("float32", "bfloat16"):
        found: dict[str, Any] = floor(getattr(torch, name))
        if raced["machine"] == results["machine"]:
            own = {n: s["median"] for n, s in raced["seconds_a_step"].items() if n.startswith(f"ours {name}")}
            found["seconds of the race"] = own
            found["race / floor"] = {n: seconds / found["seconds"]["all"] for n, seconds in own.items()}
        results[name] = found
        print(name, json.dumps(found, indent=1), flush=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")


def floor(dtype: torch.dtype) -> dict[str, Any]:
    """Seconds and TFLOP of each part."""
    config = json.loads((MODEL / "config.json").read_text())
    layers, head = shapes(config), (config["hidden_size"], config["vocab_size"])
    row = PROMPT + COMPLETIONS * TOKENS
    batches, trained, decoded = PROMPTS / ROWS_PER_MICROBATCH, PROMPTS * COMPLETIONS * TOKENS, TOKENS - 1
    products = {
        "layers, forward and backward": [
            (ROWS_PER_MICROBATCH * row, k, n, 2 * batches * count) for k, n, count in layers
        ],
        "head, forward and backward": [(trained // 8, *head, 8), (trained // 8, *reversed(head), 8)],
        "sampling": [
            *((PROMPTS * PROMPT, k, n, count) for k, n, count in layers),
            *((PROMPTS * COMPLETIONS, k, n, decoded * count) for k, n, count in [*layers, (*head, 1)]),
        ],
    }
    seconds = {name: sum(timed(m, k, n, dtype) * times for m, k, n, times in parts) for name, parts in products.items()}
    flop = {name: sum(2e-12 * m * k * n * times for m, k, n, times in parts) for name, parts in products.items()}
    seconds["all"], flop["all"] = sum(seconds.values()), sum(flop.values())
    return {"seconds": seconds, "TFLOP": flop}


def shapes(config: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Inputs, outputs and number of the layers' matrices."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    return [
        (hidden, hidden, 2 * layers),
        (hidden, keys, 2 * layers),
        (hidden, inner, 2 * layers),
        (inner, hidden, layers),
    ]


def timed(m: int, k: int, n: int, dtype: torch.dtype) -> float:
    """Seconds of one product [m, k] x [k, n], the weight as a linear layer keeps it."""
    left, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    torch.nn.functional.linear(left, weight)
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.nn.functional.linear(left, weight)
        taken.append(time.perf_counter() - started)
    return median(taken)


if __name__ == "__main__":
    main()
