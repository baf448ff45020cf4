"""Every alarm is raised by its own signal and by no other; a healthy run has none."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from test_health import HEALTHY

from grpo.alarms import alarms
from grpo.points import Point
from grpo.types import Evaluation


def rising(steps: int, **late: Any) -> list[Point]:
    """A curve that rises from 0.2 to 0.8, with noise; the last five steps with other values."""
    draw = random.Random(1)
    curve = [0.2 + 0.6 * k / (steps - 1) + draw.uniform(-0.01, 0.01) for k in range(steps)]
    points = [replace(HEALTHY, step=k, reward=reward) for k, reward in enumerate(curve)]
    return [*points[:-5], *(replace(point, **late) for point in points[-5:])]


def flat(steps: int, **late: Any) -> list[Point]:
    """Noise around 0.5."""
    draw = random.Random(2)
    points = [replace(HEALTHY, step=k, reward=0.5 + draw.uniform(-0.05, 0.05)) for k in range(steps)]
    return [*points[:-5], *(replace(point, **late) for point in points[-5:])]


def evaluation(step: int, mean: float, half: float = 0.02) -> Evaluation:
    return Evaluation(step=step, mean=mean, low=mean - half, high=mean + half, n=100, prompt_means=())


def names(points: list[Point], *evaluations: Evaluation) -> list[str]:
    return [alarm.name for alarm in alarms(points, evaluations)]


def test_a_healthy_run_is_quiet() -> None:
    assert names(rising(40)) == []
    assert names(rising(40), evaluation(10, 0.4), evaluation(30, 0.6)) == []
    assert names(rising(4)) == []
    assert names(flat(40)) == [], "forty steps are early to call a curve flat"


@pytest.mark.parametrize(
    ("late", "name", "said"),
    [
        ({"error_share": 0.25}, "grader", "25% of the completions could not be scored"),
        ({"signal_share": 0.0}, "silent", "100% of the groups"),
        ({"truncated_share": 0.75}, "cut", "75% of the completions are cut"),
        ({"gap": 0.5}, "broken", "differ by 0.50 nats"),
        ({"reward": 0.25}, "collapsing", "to 0.250"),
    ],
)
def test_one_signal_one_alarm(late: dict[str, Any], name: str, said: str) -> None:
    (alarm,) = alarms(rising(40, **late))
    assert (alarm.name, said in alarm.text, bool(alarm.advice)) == (name, True, True), alarm


def test_length_explodes_only_where_the_reward_does_not_follow() -> None:
    assert names(flat(40, length=250.0)) == ["length"]
    assert names(rising(40, length=250.0)) == []
    assert names(flat(40, length=150.0)) == []


def test_a_curve_that_does_not_move_is_flat_in_time() -> None:
    assert names(flat(60)) == ["flat"]
    assert names(rising(60)) == []


def test_a_policy_of_one_answer_is_degenerate() -> None:
    assert names(flat(40, entropy=0.01)) == ["degenerate"]
    assert names(rising(40, entropy=0.01)) == [], "one that has learned may be sure of itself"


def test_training_and_held_out_go_apart() -> None:
    """By hand: 0.45 at most against 0.5 before, while the training reward rose."""
    (alarm,) = alarms(rising(40), [evaluation(10, 0.5), evaluation(30, 0.43)])
    assert (alarm.name, "from 0.500 to 0.430" in alarm.text) == ("apart", True)
    assert names(rising(40), evaluation(10, 0.5), evaluation(30, 0.49)) == [], "within the interval"
    assert names(flat(40), evaluation(10, 0.5)) == []
    gap = [p for p in rising(40) if p.step < 5 or p.step >= 30]
    assert names(gap, evaluation(20, 0.5), evaluation(38, 0.43)) == [], "what the reward was then is not known"


def test_what_a_stream_does_not_tell_is_no_alarm() -> None:
    bare = [Point(step=k, reward=0.2 + k / 100) for k in range(60)]
    assert names(bare) == []
    assert names([*bare, Point(step=60, reward=math.nan)]) == ["broken"]


def test_the_gravest_comes_first() -> None:
    assert names(rising(40, error_share=0.5, truncated_share=0.9)) == ["grader", "cut"]
