"""What the sandbox costs: a batch of 64 through a reward function that does nothing, level by level, in turn.

.venv/bin/python benchmarks/sandbox/overhead.py [--rounds 300]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from grpo import sandbox
from grpo.reward_process import ProcessFunction
from grpo.sections import Reward

SOURCE = (
    "def lambda_handler(event, context):\n    return [{'id': s['id'], 'aggregate_reward_score': 0.0} for s in event]\n"
)
EVENTS = [
    {
        "id": f"sample-0-{i}",
        "messages": [{"role": "user", "content": "q" * 200}, {"role": "assistant", "content": "a" * 200}],
    }
    for i in range(64)
]


def main() -> None:
    """All levels in every round, so that neighbours disturb all alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reward.py"
        file.write_text(SOURCE)
        levels = [level for level in sandbox.LEVELS if sandbox.why_not(level) is None]
        start: dict[str, list[float]] = {level: [] for level in levels}
        batch: dict[str, list[float]] = {level: [] for level in levels}
        for level in levels * 5:
            began = time.perf_counter()
            function = ProcessFunction(Reward(file=file, sandbox=level), Path(folder) / "log")
            start[level].append(time.perf_counter() - began)
            function.close()
        functions = {level: ProcessFunction(Reward(file=file, sandbox=level), Path(folder) / "log") for level in levels}
        for _ in range(arguments.rounds):
            for level, function in functions.items():
                began = time.perf_counter()
                function.call(EVENTS)
                batch[level].append(time.perf_counter() - began)
        for function in functions.values():
            function.close()
    result = {level: {"start_ms": spread(start[level]), "batch_of_64_ms": spread(batch[level])} for level in levels}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    return {
        "median": round(1e3 * float(np.median(seconds)), 2),
        "p95": round(1e3 * float(np.quantile(seconds, 0.95)), 2),
    }


if __name__ == "__main__":
    main()
