"""What a drafter that copies earlier completions would save of a finished run's sampling.

A draft is the most frequent continuation of the longest suffix seen before, in completions of the same prompt from
earlier steps or in those of all prompts (SuffixDecoding, arXiv 2411.04975). A drafted token is kept when it is what
was sampled, which is what an engine does with drafts that are certain of themselves: the completions stay those of
the run, so they can be replayed. A pass of the model checks a draft and gives one more token. Writes
benchmarks/results/drafts.json.

    python benchmarks/step/drafts.py runs/bench/cpu-words/only/seed-0 ...
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from grpo.runlog import read_rollouts

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = 8
"""The longest suffix looked for, tokens."""
START = -1
"""Stands before a completion's first token, so that its beginning can be drafted, too."""
LENGTHS = (1, 2, 4, 8)

Tokens = tuple[int, ...]


class Drafter:
    """Counts of the token that followed each suffix of up to ``SUFFIX`` tokens."""

    def __init__(self) -> None:
        self.following: defaultdict[Tokens, Counter[int]] = defaultdict(Counter)

    def learn(self, completion: Tokens) -> None:
        text = (START, *completion)
        for end in range(1, len(text)):
            for start in range(max(0, end - SUFFIX), end):
                self.following[text[start:end]][text[end]] += 1

    def next(self, text: Tokens) -> int | None:
        for start in range(max(0, len(text) - SUFFIX), len(text)):
            if found := self.following.get(text[start:]):
                return found.most_common(1)[0][0]
        return None

    def draft(self, text: Tokens, length: int) -> Tokens:
        """At most ``length`` tokens that may follow ``text``."""
        drafted: Tokens = ()
        while len(drafted) < length and (token := self.next((*text, *drafted)[-SUFFIX:])) is not None:
            drafted += (token,)
        return drafted


def passes(drafter: Drafter, completion: Tokens, length: int) -> tuple[int, int]:
    """Passes of the model that ``completion`` takes, and rows in them: of each pass its draft and one more."""
    taken = rows = place = 0
    while place < len(completion):
        drafted = drafter.draft((START, *completion[:place])[-SUFFIX:], length)
        kept = sum(1 for n in range(1, len(drafted) + 1) if drafted[:n] == completion[place : place + n])
        taken, rows, place = taken + 1, rows + len(drafted) + 1, place + kept + 1
    return taken, rows


def steps_of(run: Path) -> list[list[tuple[int, list[Tokens]]]]:
    """Of each step of a run: the prompts' numbers with their completions."""
    saved = takewhile(bool, (read_rollouts(run, step) for step in count()))
    return [[(g.prompt.index, [c.token_ids for c in g.completions]) for g in groups or ()] for groups in saved]


def replay(run: Path, length: int, shared: bool) -> list[dict[str, int]]:
    """Of each step: tokens, passes and rows of all completions, and of the one that takes the most of each."""
    drafters: defaultdict[int, Drafter] = defaultdict(Drafter)
    told = []
    for groups in steps_of(run):
        pairs = [(0 if shared else index, c) for index, completions in groups for c in completions]
        costs = [passes(drafters[key], c, length) for key, c in pairs]
        for key, completion in pairs:
            drafters[key].learn(completion)
        told.append(
            {
                "tokens": sum(len(c) for _, c in pairs),
                "passes": sum(taken for taken, _ in costs),
                "rows": sum(rows for _, rows in costs),
                "longest": max(len(c) for _, c in pairs),
                "longest_passes": max(taken for taken, _ in costs),
            }
        )
    return told


def summary(told: Sequence[dict[str, int]]) -> dict[str, float]:
    total = Counter[str]()
    for step in told:
        total.update(step)
    return {
        "tokens_a_pass": total["tokens"] / total["passes"],
        "rows_a_token": total["rows"] / total["tokens"],
        "passes_of_a_batch": total["longest_passes"] / total["longest"],
    }


def measure(run: Path) -> list[dict[str, Any]]:
    """For each source of drafts and each length, over thirds of the run."""
    if len(steps_of(run)) < 3:
        raise SystemExit(f"{run}: a run of at least three steps is needed")
    rows = []
    for shared in (False, True):
        for length in LENGTHS:
            told = replay(run, length, shared)
            third = len(told) // 3
            parts = {"first": told[:third], "second": told[third : -third or None], "last": told[-third:]}
            source = "all prompts" if shared else "the same prompt"
            rows.append({"from": source, "length": length, **{n: summary(part) for n, part in parts.items()}})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    runs = [Path(name) for name in sys.argv[1:]]
    found = {str(run): measure(run) for run in runs}
    (ROOT / "benchmarks" / "results" / "drafts.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
