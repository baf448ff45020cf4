"""Write the demo's prompt files: sums of two numbers up to ten, asked in four ways, each prompt in exactly one split.

    python scripts/make_arithmetic.py configs/demo

A sum asked in one way in the test file may be asked in another way in training.
"""

import json
import random
import sys
from pathlib import Path

PHRASINGS = ("What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} + {b}?", "Calculate {a} + {b}.")
NUMBERS = range(1, 11)
SPLITS = {"heldout": 32, "test": 104}


def rows() -> list[str]:
    asked = [(phrasing, a, b) for phrasing in PHRASINGS for a in NUMBERS for b in NUMBERS]
    random.Random(0).shuffle(asked)
    return [
        json.dumps({"messages": [{"role": "user", "content": p.format(a=a, b=b)}], "reference_answer": str(a + b)})
        for p, a, b in asked
    ]


def write(directory: Path, left: list[str], splits: dict[str, int]) -> None:
    """Files of so many rows each, and what is left for training."""
    for name, count in splits.items():
        (directory / f"{name}.jsonl").write_text("\n".join(left[:count]) + "\n")
        left = left[count:]
    (directory / "train.jsonl").write_text("\n".join(left) + "\n")


def main() -> None:
    write(Path(sys.argv[1]), rows(), SPLITS)


if __name__ == "__main__":
    main()
