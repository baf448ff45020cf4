"""GSM8K (MIT licence, github.com/openai/grade-school-math) as prompt files: train, held-out and test.

    .venv/bin/python scripts/gsm8k.py [--source openai/gsm8k] [--out data/gsm8k]

The source is a dataset of the Hub, or a directory with train.jsonl and test.jsonl of {question, answer}.
"""

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import load_dataset

HELDOUT = 200
SYSTEM = "Solve the problem step by step. End with the answer in \\boxed{}."


def row(example: dict[str, str]) -> dict[str, Any]:
    """One prompt; the reference keeps the whole solution, whose last line is ``#### ANSWER``."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": example["question"]}]
    return {"messages": messages, "reference_answer": example["answer"]}


def write(path: Path, examples: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row(example)) + "\n" for example in examples))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="openai/gsm8k")
    parser.add_argument("--out", type=Path, default=Path("data/gsm8k"))
    arguments = parser.parse_args()
    local = Path(arguments.source)
    if local.is_dir():
        files = {split: str(local / f"{split}.jsonl") for split in ("train", "test")}
        found = load_dataset("json", data_files=files)
    else:
        found = load_dataset(arguments.source, "main")
    examples = list(found["train"])
    random.Random(0).shuffle(examples)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out / "train.jsonl", examples[HELDOUT:])
    write(arguments.out / "heldout.jsonl", examples[:HELDOUT])
    write(arguments.out / "test.jsonl", found["test"])
    print(f"{arguments.out}: {len(examples) - HELDOUT} rows to train, {HELDOUT} held out, {len(found['test'])} to test")


if __name__ == "__main__":
    main()
