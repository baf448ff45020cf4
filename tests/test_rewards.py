"""The reward function's contract and its failures, with real child processes."""

import time
from pathlib import Path

import pytest

from grpo.errors import RewardError
from grpo.rewards import CallFailed, RewardFunction, event, is_number, parse
from grpo.sections import Reward as RewardSettings
from grpo.types import Completion, Group, Prompt

from runs import alive


def completion(text: str) -> Completion:
    return Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop")


PROMPT = Prompt(index=0, messages=({"role": "user", "content": "q"},), token_ids=(1,), reference_answer="7")


@pytest.fixture
def make(tmp_path: Path):
    opened: list[RewardFunction] = []

    def function(body: str, **options) -> RewardFunction:
        path = tmp_path / "reward.py"
        path.write_text(body)
        opened.append(RewardFunction(RewardSettings(file=path, **options), tmp_path / "reward.log"))
        return opened[-1]

    yield function
    for reward in opened:
        reward.close()


def score(reward: RewardFunction, *texts: str) -> Group:
    return reward.score([(PROMPT, tuple(completion(t) for t in texts))])[0]


PER_SAMPLE = """
import os, sys, time
def one(text):
{body}
def lambda_handler(event, context):
    return [{{"id": s["id"], "aggregate_reward_score": one(s["messages"][-1]["content"])}} for s in event]
"""


def per_sample(*lines: str) -> str:
    return PER_SAMPLE.format(body="\n".join("    " + line for line in lines))


def test_event_has_bedrocks_form() -> None:
    prompt = Prompt(
        index=0, messages=({"role": "user", "content": "q"},), token_ids=(1,), reference_answer="7", metadata={"k": 1}
    )
    assert event(prompt, completion("a"), "s1") == {
        "id": "s1",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "reference_answer": {"text": "7"},
        "metadata": {"k": 1, "reference_answer": {"text": "7"}},
    }


def test_dictionary_reference_passes_unchanged() -> None:
    prompt = Prompt(index=0, messages=(), token_ids=(1,), reference_answer={"final_answer": 3})
    assert event(prompt, completion("a"), "s")["metadata"]["reference_answer"] == {"final_answer": 3}


def test_scores_in_order_and_parts(make) -> None:
    reward = make(
        "def lambda_handler(event, context):\n"
        "    return [{'id': s['id'], 'aggregate_reward_score': len(s['messages'][-1]['content']),\n"
        "             'metrics_list': [{'name': 'n', 'value': 2, 'type': 'Metric'}]} for s in reversed(event)]"
    )
    group = score(reward, "a", "bbb", "cc")
    assert group.values == (1.0, 3.0, 2.0)
    assert group.rewards[0].parts == {"n": 2.0}


def test_one_raising_sample_costs_only_itself(make) -> None:
    group = score(make(per_sample("return 1 / (text != 'bad')")), "a", "bad", "c")
    assert group.values == (1.0, 1.0)
    assert "ZeroDivisionError" in (group.rewards[1].error or "")


def test_a_hanging_sample_is_killed_and_costs_only_itself(make) -> None:
    reward = make(per_sample("if text == 'hang':", "    time.sleep(600)", "return 1"), timeout_s=1.0)
    started = time.monotonic()
    group = score(reward, "a", "hang", "c")
    assert group.values == (1.0, 1.0)
    assert "within reward.timeout_s = 1 s" in (group.rewards[1].error or "")
    assert time.monotonic() - started < 60


def test_many_hanging_samples_do_not_add_up(make) -> None:
    reward = make(per_sample("time.sleep(600)"), timeout_s=0.5)
    started = time.monotonic()
    group = score(reward, *["x"] * 40)
    assert group.values == ()
    assert "not tried" in (group.rewards[-1].error or "")
    assert time.monotonic() - started < 40 * 0.5


@pytest.mark.parametrize("fatal", ["os._exit(3)", "sys.exit(1)", "os.kill(os.getpid(), 9)", "x = bytearray(10**10)"])
def test_a_dying_process_costs_only_the_sample(make, fatal: str) -> None:
    group = score(make(per_sample("if text == 'die':", f"    {fatal}", "return 1")), "a", "die", "c")
    assert group.values == (1.0, 1.0)
    assert group.rewards[1].error


def test_a_slow_start_after_a_failure_never_shifts_the_answers(make, tmp_path: Path) -> None:
    """A child that loads too slowly leaves an answer unread; taken for the next one it would shift all scores."""
    marker = tmp_path / "slow"
    body = f"import os, time\nif os.path.exists({str(marker)!r}):\n    os.remove({str(marker)!r}); time.sleep(1.5)\n"
    reward = make(body + per_sample("if text == 'die': os._exit(1)", "return float(text)"), timeout_s=1.0)
    marker.touch()
    score(reward, "die")
    assert score(reward, "1", "2").values in ((), (2.0,), (1.0, 2.0))
    for i in range(3):
        assert score(reward, str(10 + i), str(20 + i)).values == (10.0 + i, 20.0 + i)


def test_a_child_that_hangs_up_and_lives_on_does_not_hold_us(make) -> None:
    reward = make(per_sample("os.closerange(3, 100)", "time.sleep(600)"), timeout_s=1.0)
    started = time.monotonic()
    assert score(reward, "a").values == ()
    assert time.monotonic() - started < 30


def test_prints_do_not_disturb_the_protocol(make, tmp_path: Path) -> None:
    group = score(make(per_sample("print('{\"ok\": [1]}' * 10000)", "return 0.5")), "a")
    assert group.values == (0.5,)
    assert '{"ok": [1]}' in (tmp_path / "reward.log").read_text()


def test_the_child_sees_no_secrets_and_no_input(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert score(make(per_sample("return len([k for k in os.environ if 'SECRET' in k])")), "a").values == (0.0,)


@pytest.mark.parametrize("level", ["strong", "medium", "weak"])
def test_close_kills_the_child(make, tmp_path: Path, level: str) -> None:
    reward = make(per_sample("return 1.0"), sandbox=level)
    assert score(reward, "a").values == (1.0,)
    assert alive(str(tmp_path / "reward.py"))
    reward.close()
    assert not alive(str(tmp_path / "reward.py"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = (", "SyntaxError"),
        ("y = 1", "no function lambda_handler"),
        ("raise RuntimeError('at import')", "at import"),
        ("import os; os._exit(4)", "ended with code 4"),
        ("lambda_handler = 3", "no function lambda_handler"),
    ],
)
def test_a_file_that_cannot_be_loaded(make, body: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        make(body)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="no such reward file"):
        RewardFunction(RewardSettings(file=tmp_path / "absent.py"), tmp_path / "log")


EVENTS = [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize("result", [None, {}, "x", [1], [[]], 3])
def test_results_of_the_wrong_shape(result) -> None:
    with pytest.raises(CallFailed, match="expected a list of objects"):
        parse(result, EVENTS)


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), [1], 10**400])
def test_values_that_are_not_scores(value) -> None:
    assert not is_number(value)
    rewards = parse([{"id": "a", "aggregate_reward_score": value}, {"id": "b", "aggregate_reward_score": 1}], EVENTS)
    assert rewards[0].value is None
    assert "expected a number up to 1e9" in (rewards[0].error or "")
    assert rewards[1].value == 1.0


def test_a_missing_id_is_a_failure_not_a_zero() -> None:
    rewards = parse([{"id": "b", "aggregate_reward_score": 0}], EVENTS)
    assert (rewards[0].value, rewards[1].value) == (None, 0.0)


def test_the_slowest_call_is_known(make) -> None:
    """Two batches of one, the second of which takes 0.3 s; then a quick one does not lower it."""
    reward = make(per_sample("time.sleep(0.3 if text == 'slow' else 0)", "return 1.0"), batch_size=1)
    score(reward, "quick", "slow")
    assert 0.3 <= reward.slowest <= reward.seconds
    slowest = reward.slowest
    score(reward, "quick")
    assert reward.slowest >= slowest
