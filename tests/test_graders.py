"""The built-in graders in the real sandbox; every expected score follows from the row by reading it."""

import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from grpo.errors import RewardError
from grpo.rewards import RewardFunction, join
from grpo.sections import Grader
from grpo.sections import Reward as Settings
from grpo.types import Completion, Group, Prompt, Reward


def graded(tmp_path: Path, texts: list[str], reference: Any = None, row: dict[str, Any] | None = None, **settings: Any):
    """The rewards of several completions of one prompt."""
    function = RewardFunction(Settings(timeout_s=20.0, **settings), tmp_path / "log")
    try:
        (group,) = function.score([(prompt(reference, row), completions(texts))])
    finally:
        function.close()
    return group.rewards


def prompt(reference: Any, row: dict[str, Any] | None = None) -> Prompt:
    return Prompt(
        index=0,
        messages=({"role": "user", "content": "q"},),
        token_ids=(1,),
        reference_answer=reference,
        metadata=row or {},
    )


def completions(texts: list[str]) -> tuple[Completion, ...]:
    return tuple(Completion(token_ids=(1,), logprobs=(0.0,), text=t, finish_reason="stop") for t in texts)


def values(rewards: tuple[Reward, ...]) -> list[float | None]:
    return [reward.value for reward in rewards]


def test_exact(tmp_path: Path) -> None:
    assert values(graded(tmp_path, ["yes", " yes\n", "Yes", "no"], "yes", builtin="exact")) == [1, 1, 0, 0]
    loose = {"builtin": "exact", "options": {"ignore_case": True, "field": "verdict"}}
    assert values(graded(tmp_path, ["YES", "no"], {"verdict": "yes"}, **loose)) == [1, 0]
    assert values(graded(tmp_path, ["12"], 12, builtin="exact")) == [1]


def test_a_row_that_cannot_be_graded_is_no_zero(tmp_path: Path) -> None:
    (reward,) = graded(tmp_path, ["yes"], None, builtin="exact")
    assert reward.value is None
    assert "no reference_answer" in str(reward.error)
    (reward,) = graded(tmp_path, ["yes"], {"other": 1}, builtin="exact")
    assert "no field text or answer" in str(reward.error)


def test_unknown_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="unknown ignore-case; there are field, ignore_case, strip"):
        graded(tmp_path, ["x"], "x", builtin="exact", options={"ignore-case": True})
    with pytest.raises(ValidationError, match="a function of your own reads its environment"):
        Settings(file=tmp_path / "reward.py", options={"x": 1})
    with pytest.raises(ValidationError, match=r"reward\.builtin"):
        Settings()


def test_regex(tmp_path: Path) -> None:
    texts = ["so #### 7", "#### 8 then #### 7", "#### 8", "7"]
    found = {"builtin": "regex", "options": {"pattern": r"#### (\d+)"}}
    assert values(graded(tmp_path, texts, **found)) == [1, 1, 1, 0]
    compared = {"builtin": "regex", "options": {"pattern": r"#### (\d+)", "compare": True}}
    assert values(graded(tmp_path, texts, "7", **compared)) == [1, 1, 0, 0]
    full = {"builtin": "regex", "options": {"pattern": r"\d+", "full": True}}
    assert values(graded(tmp_path, ["12", "12 "], **full)) == [1, 0]


def test_a_pattern_that_explodes_costs_one_score(tmp_path: Path) -> None:
    catastrophe = {"builtin": "regex", "options": {"pattern": "(a+)+$", "full": True}}
    function = RewardFunction(Settings(timeout_s=1.0, **catastrophe), tmp_path / "log")
    try:
        (group,) = function.score([(prompt(None), completions(["aaa", "a" * 40 + "b", "aa"]))])
    finally:
        function.close()
    assert values(group.rewards) == [1, None, 1]


def test_math_strict_and_lenient(tmp_path: Path) -> None:
    texts = [r"thus \boxed{\frac{1}{2}}", r"\boxed{0.5}", "the answer is 1/2", r"\boxed{2}", "none", r"\boxed{\{1\}}"]
    assert values(graded(tmp_path, texts, r"\frac{1}{2}", builtin="math")) == [1, 1, 0, 0, 0, 0]
    lenient = {"builtin": "math", "options": {"mode": "lenient"}}
    assert values(graded(tmp_path, texts, r"\frac{1}{2}", **lenient))[:4] == [1, 1, 1, 0]
    gsm8k = "Natalia sold 48/2 = 24 clips in May.\n#### 1,072"
    assert values(graded(tmp_path, [r"\boxed{1072}", r"\boxed{24}"], gsm8k, builtin="math")) == [1, 0]


def test_json_schema(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    texts = ['{"n": 1}', '```json\n{"n": 1}\n```', '{"n": "1"}', "{", '{"m": 1}', "[" * 100_000]
    assert values(graded(tmp_path, texts, builtin="json_schema", options={"schema": schema})) == [1, 1, 0, 0, 0, 0]
    assert values(graded(tmp_path, texts[:3], row={"schema": schema}, builtin="json_schema")) == [1, 1, 0]
    equal = {"builtin": "json_schema", "options": {"equals": True}}
    assert values(graded(tmp_path, ['{"a": [1, 2]}', '{"a": [2, 1]}'], {"a": [1, 2]}, **equal)) == [1, 0]
    assert values(graded(tmp_path, ["true", "1"], 1, **equal)) == [0, 1], "true is no number"
    assert values(graded(tmp_path, ['"a"', "a"], "a", **equal)) == [1, 0]
    inner = {"builtin": "json_schema", "options": {"equals": True, "field": "answer"}}
    assert values(graded(tmp_path, ["[1]", "[2]"], {"answer": [1], "unit": "kg"}, **inner)) == [1, 0]
    number = {"builtin": "json_schema", "options": {"schema": {"type": "number"}}}
    assert values(graded(tmp_path, ["NaN", "1", '{"s": "```a b```"}'], **number)) == [0, 1, 0]
    (valueless,) = graded(tmp_path, ["5"], {"n": 1}, builtin="json_schema")
    assert "needs equals = true" in str(valueless.error), "a value is no schema that takes everything"
    assert values(graded(tmp_path, texts[:3], row={"schema": json.dumps(schema)}, builtin="json_schema")) == [1, 1, 0]


FORMS = [
    r"It costs \$18.",
    r"**\$18**",
    r"The total is \$10 + \$8 = \$18.",
    "<answer>18</answer>",
    "<answer>$18</answer>",
    "Answer:18",
    "####18",
    r"#### \$18",
    "18.0",
]


def test_math_reads_the_usual_forms(tmp_path: Path) -> None:
    lenient = {"builtin": "math", "options": {"mode": "lenient"}}
    assert values(graded(tmp_path, FORMS, "18", **lenient)) == [1] * len(FORMS)
    assert values(graded(tmp_path, ["The answer is \N{MINUS SIGN}5", "5"], "-5", **lenient)) == [1, 0]
    assert values(graded(tmp_path, [r"\boxed{0.000025}", r"\boxed{0.25}"], 0.000025, builtin="math")) == [1, 0]
    assert values(graded(tmp_path, [r"\boxed{602000}"], "6.02e5", builtin="math")) == [1]
    (listed,) = graded(tmp_path, [r"\boxed{12, 13}"], [12, 13], builtin="math")
    assert "expected text or a number, found list" in str(listed.error)


def test_values_of_json_are_text_as_in_json(tmp_path: Path) -> None:
    assert values(graded(tmp_path, ["true", "True"], True, builtin="exact")) == [1, 0]
    assert values(graded(tmp_path, ["7", "7.0"], 7.0, builtin="exact")) == [1, 0]
    assert values(graded(tmp_path, ["100"], 100, builtin="exact")) == [1]


def test_an_answer_that_hangs_is_wrong_and_costs_nobody_else(tmp_path: Path) -> None:
    hang, good = "def add(a, b):\n    while True: pass", "def add(a, b):\n    return a + b"
    row = {"tests": ["assert add(1, 2) == 3"]}
    quick = {"builtin": "python_tests", "options": {"seconds": 0.5}}
    assert values(graded(tmp_path, [hang, good, hang, hang, hang, good], row=row, **quick)) == [0, 1, 0, 0, 0, 1]


BLOCKS = [
    "```python\ndef add(a, b):\n    return a + b\n```\nOutput:\n```\n3\n```",
    "```python\ndef add(a, b):\n    return a + b\n",
    "```python\ndef add(a, b):\n    return a + b\n```\nI used ``` fences.",
    "~~~python\ndef add(a, b):\n    return a + b\n~~~",
    "```\ndef add(a, b):\n    return a + b\n```",
    "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass N:\n    x: N = None\n\n"
    "def add(a, b):\n    return a + b",
]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_is_found_where_models_put_it(tmp_path: Path, number: int) -> None:
    row = {"tests": ["assert add(1, 2) == 3"]}
    assert values(graded(tmp_path, [BLOCKS[number]], row=row, builtin="python_tests")) == [1]


def test_no_query_earns_nothing(tmp_path: Path) -> None:
    row = {"setup": "CREATE TABLE t (a INT);"}
    texts = ["", "-- nothing", "SELECT a FROM t"]
    assert values(graded(tmp_path, texts, "SELECT a FROM t", row=row, builtin="sql")) == [0, 0, 1]
    (unready,) = graded(tmp_path, ["SELECT 1"], "SELECT 1", row={"setup": "CREATE TABLE"}, builtin="sql")
    assert str(unready.error).startswith("setup: ")
    many = {
        "setup": "CREATE TABLE n AS WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 20000) "
        "SELECT i FROM c;"
    }
    (large,) = graded(tmp_path, ["SELECT i FROM n WHERE i <= 10000"], "SELECT i FROM n", row=many, builtin="sql")
    assert "more than 10000 rows" in str(large.error)


def test_a_pattern_that_is_none_is_named(tmp_path: Path) -> None:
    for pattern in ("(", 5):
        with pytest.raises(RewardError, match=r"reward.options.pattern: "):
            graded(tmp_path, ["x"], builtin="regex", options={"pattern": pattern})


def test_what_would_be_ignored_is_refused() -> None:
    graders = ({"name": "j", "builtin": "exact"},)
    for lost in ({"network": True}, {"handler": "h"}, {"environment": {"A": "b"}}):
        with pytest.raises(ValidationError, match=r"belongs into each of \[\[reward.graders\]\]"):
            Settings(graders=graders, **lost)
    with pytest.raises(ValidationError, match="finite"):
        Grader(name="x", builtin="exact", weight=float("nan"))


def test_sql(tmp_path: Path) -> None:
    setup = "CREATE TABLE t (a INT, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'x');"
    texts = [
        "SELECT a FROM t WHERE b = 'x'",
        "```sql\nSELECT a FROM t WHERE b <> 'y' ORDER BY a DESC;\n```",  # order does not matter
        "SELECT a FROM t",
        "SELECT nothing FROM t",
        "DROP TABLE t",
        "ATTACH '/tmp/x.db' AS x",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c",  # never ends
        "no query",
    ]
    rewards = graded(tmp_path, texts, "SELECT a FROM t WHERE b = 'x'", row={"setup": setup}, builtin="sql")
    assert values(rewards) == [1, 1, 0, 0, 0, 0, 0, 0]
    ordered = {"builtin": "sql", "options": {"ordered": True, "setup": setup}}
    assert values(graded(tmp_path, ["SELECT a FROM t ORDER BY a DESC"], "SELECT a FROM t ORDER BY a", **ordered)) == [0]


def test_python_tests(tmp_path: Path) -> None:
    row = {"tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]}
    texts = [
        "```python\ndef add(a, b):\n    return a + b\n```",
        "def add(a, b):\n    return abs(a) + abs(b)",
        "def add(a, b) return",
        "import sys; sys.exit(0)",
    ]
    rewards = graded(tmp_path, texts, row=row, builtin="python_tests", batch_size=1)
    assert values(rewards) == pytest.approx([1, 1 / 3, 0, 0])
    strict = {"builtin": "python_tests", "options": {"all": True}}
    assert values(graded(tmp_path, texts[:2], row=row, **strict)) == [1, 0]
    (unanswered,) = graded(tmp_path, texts[:1], row={}, **strict)
    assert unanswered.value is None


class Judge(http.server.BaseHTTPRequestHandler):
    """Gives 7 of 10 to an answer with "good" in it, 12 to one with "best", and no number to one with "odd"."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).asked.append(body | {"key": self.headers["authorization"], "path": self.path})
        content = body["messages"][-1]["content"]
        said = "I cannot." if "odd" in content else f"SCORE: 1\nSCORE: {12 if 'best' in content else 7}"
        answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def test_judge(tmp_path: Path) -> None:
    Judge.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "judge", "api_key": "k"}
    rewards = graded(tmp_path, ["good", "best", "odd"], "the truth", builtin="judge", options=options)
    server.shutdown()
    assert values(rewards) == [0.7, 1.0, None]  # 12 is held at 10
    assert "named no SCORE" in str(rewards[2].error)
    first = Judge.asked[0]
    assert (first["path"], first["key"], first["model"]) == ("/v1/chat/completions", "Bearer k", "judge")
    assert "the truth" in first["messages"][-1]["content"]
    assert "0 to 10" in first["messages"][0]["content"]


def test_several_graders_are_weighed(tmp_path: Path) -> None:
    graders = (
        Grader(name="right", builtin="exact", weight=2.0),
        Grader(name="short", builtin="regex", options={"pattern": ".{1,3}", "full": True}, weight=-0.5),
    )
    right, wrong, long = graded(tmp_path, ["yes", "no", "maybe so"], "yes", graders=graders)
    assert (right.value, wrong.value, long.value) == (1.5, -0.5, 0.0)
    assert right.parts == {"right": 1.0, "short": 1.0}
    with pytest.raises(ValidationError, match="two have the same name"):
        Settings(graders=(graders[0], graders[0]))
    with pytest.raises(ValidationError, match=r"several as \[\[reward.graders\]\]"):
        Settings(graders=graders, builtin="exact")


def test_a_sum_lacks_no_part() -> None:
    failed = join([("a", 1.0), ("b", 1.0)], [Reward(value=1.0), Reward(value=None, error="too slow")])
    assert (failed.value, failed.error) == (None, "b: too slow")
    whole = join([("a", 1.0), ("b", 3.0)], [Reward(value=1.0, parts={"x": 5.0}), Reward(value=2.0)])
    assert (whole.value, whole.parts) == (7.0, {"a": 1.0, "a.x": 5.0, "b": 2.0})


def test_retries_are_counted(tmp_path: Path) -> None:
    """By an HTTP function that fails each sample twice: with two retries every one gets its score."""
    calls: dict[str, int] = {}

    class Flaky(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events = json.loads(self.rfile.read(int(self.headers["content-length"])))
            entries = []
            for sample in events:
                calls[sample["id"]] = calls.get(sample["id"], 0) + 1
                entries.append({"id": sample["id"], "aggregate_reward_score": 1 if calls[sample["id"]] > 2 else None})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(entries).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/2015-03-31/functions/f/invocations"
    assert values(graded(tmp_path, ["a", "b"], url=url, retries=1)) == [None, None]
    calls.clear()
    assert values(graded(tmp_path, ["a", "b"], url=url, retries=2)) == [1, 1]
    server.shutdown()
    assert set(calls.values()) == {3}


def test_too_many_errors_end_a_run() -> None:
    from grpo.groups import check_scored

    def group(*scores: float | None) -> Group:
        rewards = tuple(Reward(value=s, error="no file" if s is None else None) for s in scores)
        return Group(prompt=prompt(None), completions=completions(["x"] * len(scores)), rewards=rewards)

    check_scored([group(1.0, None), group(0.0, 1.0)], 4, 0.25)
    with pytest.raises(RewardError, match=r"1 of 4 completions of step 5 .*max_error_share = 0.2\), first: no file"):
        check_scored([group(1.0, None), group(0.0, 1.0)], 4, 0.2)
    with pytest.raises(RewardError, match="2 of 2 completions"):
        check_scored([group(None, None)], 0, 1.0)
