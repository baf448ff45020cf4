"""GSM8K (MIT licence, github.com/openai/grade-school-math) as prompt files: train, held-out and test.

    .venv/bin/python scripts/gsm8k.py [--source openai/gsm8k] [--out data/gsm8k] [--train N] [--heldout N] [--test N]

The source is a dataset of the Hub, or a directory with train.jsonl and test.jsonl of {question, answer}. Held-out rows
are taken from the training rows, which are shuffled before, unless --in-order. With --test-from-train N the test rows
are N of the training rows, too, as in AWS's split of 80, 10 and 10 per cent.
"""

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import load_dataset

BOXED = "Solve the problem step by step. End with the answer in \\boxed{}."
HASHES = 'Let\'s think step by step and output the final answer after "####".'
"""As AWS's samples and verl ask, in the user's message."""


def row(example: dict[str, str], form: str = "boxed") -> dict[str, Any]:
    """One prompt; the reference keeps the whole solution, whose last line is ``#### ANSWER``."""
    question = example["question"]
    messages = [{"role": "system", "content": BOXED}, {"role": "user", "content": question}]
    if form == "hashes":
        messages = [{"role": "user", "content": f"{question} {HASHES}"}]
    return {"messages": messages, "reference_answer": example["answer"]}


def write(path: Path, examples: Iterable[dict[str, str]], form: str) -> int:
    lines = [json.dumps(row(example, form)) + "\n" for example in examples]
    path.write_text("".join(lines))
    return len(lines)


def read(source: str) -> Any:
    local = Path(source)
    if not local.is_dir():
        return load_dataset(source, "main")
    return load_dataset("json", data_files={split: str(local / f"{split}.jsonl") for split in ("train", "test")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="openai/gsm8k")
    parser.add_argument("--out", type=Path, default=Path("data/gsm8k"))
    parser.add_argument("--form", choices=["boxed", "hashes"], default="boxed", help="how the answer is asked for")
    parser.add_argument("--train", type=int, help="the most training rows; default: all that are not held out")
    parser.add_argument("--heldout", type=int, default=200)
    parser.add_argument("--test", type=int, help="the most test rows; default: all")
    parser.add_argument("--test-from-train", type=int, help="test rows are so many of the training rows")
    parser.add_argument("--in-order", action="store_true", help="training rows as they are, held-out ones behind them")
    arguments = parser.parse_args()
    found = read(arguments.source)
    examples, test = list(found["train"]), list(found["test"])
    if not arguments.in_order:
        random.Random(0).shuffle(examples)
    if arguments.test_from_train:
        test, examples = examples[: arguments.test_from_train], examples[arguments.test_from_train :]
    most = len(examples) - arguments.heldout
    count = min(arguments.train or most, most)
    heldout = examples[count : count + arguments.heldout]
    arguments.out.mkdir(parents=True, exist_ok=True)
    counts = [
        write(arguments.out / "train.jsonl", examples[:count], arguments.form),
        write(arguments.out / "heldout.jsonl", heldout, arguments.form),
        write(arguments.out / "test.jsonl", test[: arguments.test], arguments.form),
    ]
    print(f"{arguments.out}: {counts[0]} rows to train, {counts[1]} held out, {counts[2]} to test")


if __name__ == "__main__":
    main()
