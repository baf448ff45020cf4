"""The sums of the race, by hand."""

import pytest

from benchmarks.step.race import summary


def run(seconds: list[float], trainer: int, tree: int) -> dict[str, object]:
    return {"seconds": seconds, "trainer_mib": trainer, "tree_mib": tree}


def test_the_fastest_of_each_side_in_all_and_by_round() -> None:
    """Of the slower contestant of a side nothing counts but what is said of those that are not compiled."""
    found = summary(
        {
            "ours bfloat16": [run([3.0, 5.0], 100, 200), run([4.0, 4.0], 120, 200)],
            "ours bfloat16, compiled": [run([2.0, 4.0], 110, 300), run([2.0, 2.0], 100, 300)],
            "TRL bfloat16": [run([9.0, 11.0], 400, 400), run([12.0, 12.0], 400, 400)],
            "TRL bfloat16, compiled": [run([15.0, 17.0], 300, 300), run([5.0, 7.0], 300, 300)],
        }
    )
    assert found["fastest"] == {"ours": "ours bfloat16, compiled", "TRL": "TRL bfloat16, compiled"}
    # medians of all steps: ours 4, compiled 2; TRL 11.5, compiled 11
    assert found["ratio_step"] == 11 / 2
    assert found["ratio_step_by_round"] == [10 / 3, 6 / 2], "in round 1 TRL was faster when it was not compiled"
    assert found["ratio_step_not_compiled"] == 11.5 / 4
    assert found["ratio_memory"] == pytest.approx(110 / 300)
    assert found["ratio_memory_of_tree"] == 1
