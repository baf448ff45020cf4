"""The replay of drafts, by hand."""

from pathlib import Path

import pytest

from benchmarks.step.drafts import START, Drafter, passes, replay
from grpo.runlog import RunLog
from grpo.types import Completion, Group, Prompt, Reward

SEEN = (1, 2, 3, 4)


@pytest.fixture
def drafter() -> Drafter:
    made = Drafter()
    made.learn(SEEN)
    return made


def test_a_draft_is_the_longest_suffixs_most_frequent_continuation(drafter: Drafter) -> None:
    drafter.learn((2, 5))
    drafter.learn((7, 2, 5))
    assert drafter.draft((START, 1, 2), 8) == (3, 4)
    assert drafter.draft((9, 2), 8) == (5,), "2 was followed by 5 twice and by 3 once"
    assert drafter.draft((9,), 8) == ()


@pytest.mark.parametrize(
    ("completion", "length", "taken", "rows"),
    [
        (SEEN, 8, 1, 5),  # one draft of four, and one token more than there is
        (SEEN, 2, 2, 3 + 2),  # (1, 2) and a third, then (4)
        ((1, 9, 3, 4), 2, 3, 3 + 1 + 2),  # of (1, 2) one is kept; none after 9; (4) after 3
        ((8, 8), 4, 2, 5 + 1),  # (1, 2, 3, 4) in vain; none after 8
    ],
)
def test_passes_by_hand(drafter: Drafter, completion: tuple[int, ...], length: int, taken: int, rows: int) -> None:
    assert passes(drafter, completion, length) == (taken, rows)


def test_a_step_learns_from_earlier_ones_only(tmp_path: Path) -> None:
    """The same two completions in two steps of one prompt: nothing is drafted in the first, all in the second."""
    answer = Completion(token_ids=SEEN, logprobs=(-1.0,) * 4, text="", finish_reason="stop")
    prompt = Prompt(index=3, messages=({"role": "user", "content": "?"},), token_ids=(1,), reference_answer=None)
    log = RunLog(tmp_path)
    for step in range(2):
        log.save_rollouts(
            step, [Group(prompt=prompt, completions=(answer, answer), rewards=(Reward(value=0.0), Reward(value=0.0)))]
        )
    first, second = replay(tmp_path, 8, shared=False)
    assert first == {"tokens": 8, "passes": 8, "rows": 8, "longest": 4, "longest_passes": 4}
    assert second == {"tokens": 8, "passes": 2, "rows": 10, "longest": 4, "longest_passes": 1}
