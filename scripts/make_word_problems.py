"""Write short word problems in GSM8K's form: a question, and a solution whose last line is ``#### ANSWER``.

    python scripts/make_word_problems.py configs/bench/words

One step each, sums and differences of numbers up to twelve; each problem is in exactly one split. A sum that is told of
apples in the test file may be told of coins in training.
"""

import json
import random
import sys
from pathlib import Path

from make_arithmetic import write

NAMES = ("Tom", "Ana", "Ben", "Mia")
THINGS = ("apples", "coins", "books", "pencils")
STORIES = (
    ("{who} has {a} {things} and gets {b} more. How many {things} does {who} have now?", 1),
    ("There are {a} {things} in one box and {b} {things} in another. How many {things} are there in all?", 1),
    ("{who} has {a} {things} and gives away {b}. How many {things} does {who} have left?", -1),
)
ASKED = " End with #### and the number."
NUMBERS = range(1, 13)
SPLITS = {"heldout": 32, "test": 104}
"""The rest is for training."""


def rows() -> list[str]:
    drawn = random.Random(0)
    told = [(story, a, b) for story in STORIES for a in NUMBERS for b in NUMBERS if story[1] > 0 or a > b]
    drawn.shuffle(told)
    return [problem(text, sign, a, b, drawn) for (text, sign), a, b in told]


def problem(text: str, sign: int, a: int, b: int, drawn: random.Random) -> str:
    question = text.format(who=drawn.choice(NAMES), things=drawn.choice(THINGS), a=a, b=b) + ASKED
    result = a + sign * b
    solution = f"{a} {'+' if sign > 0 else '-'} {b} = {result}\n#### {result}"
    return json.dumps({"messages": [{"role": "user", "content": question}], "reference_answer": solution})


def main() -> None:
    write(Path(sys.argv[1]), rows(), SPLITS)


if __name__ == "__main__":
    main()
