"""The index of completions against a search through the run's own files, and what is taken away from it."""

import csv
import io
import json
import random
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made_run import CONFIG, group, make, record

from grpo.console import exports
from grpo.console.index import ORDERS, REMEMBERED, Filter, Index, discard, sweep
from grpo.console.replies import answer
from grpo.console.run_view import RunView
from grpo.runlog import RunLog, read_rollouts

WORDS = ("alpha", "Beta", "50%", "505", "a_b", "acb", "back\\slash", "ünï", "#### 7", "'; DROP TABLE completions; --")
FILTERS = (
    Filter(),
    Filter(text="beta"),
    Filter(text="50%"),
    Filter(text="a_b"),
    Filter(text="back\\slash"),
    Filter(text="ünï"),
    Filter(text="'; DROP TABLE completions; --"),
    Filter(least=0.5),
    Filter(most=0.25),
    Filter(least=0.25, most=0.75, first=3, last=7),
    Filter(prompt=2),
    Filter(cut=True),
    Filter(failed=True),
    Filter(text="alpha", prompt=1, least=0.1),
)


def drawn(directory: Path, steps: int = 12) -> RunLog:
    """Random texts, rewards and lengths; some completions cut, some not scored."""
    log, draw = RunLog(directory), random.Random(11)
    log.claim(CONFIG | {"rollout": {"max_tokens": 3}}, "digest")
    for step in range(steps):
        groups = []
        for prompt in draw.sample(range(5), 3):
            texts = [" ".join(draw.choices(WORDS, k=3)) for _ in range(4)]
            rewards = [draw.choice([None, 0.0, 0.25, 0.5, 1.0]) for _ in range(4)]
            groups.append(group(prompt, texts, rewards))
        log.save_rollouts(step, groups)
        log.metric(record(step, 0.5))
    return log


def view_of(directory: Path) -> RunView:
    return RunView(directory, directory.parent / "cache")


def by_hand(directory: Path, steps: int) -> list[dict[str, Any]]:
    """Every completion, oldest first, read from the rollouts alone."""
    return [
        {"step": step, "prompt": g.prompt.index, "reward": r.value, "text": c.text, "finish": c.finish_reason}
        for step in range(steps)
        for g in read_rollouts(directory, step) or []
        for c, r in zip(g.completions, g.rewards, strict=True)
    ]


def fits(row: dict[str, Any], wanted: Filter) -> bool:
    """What a filter means, said another way than in SQL."""
    reward = row["reward"]
    return (
        (wanted.text is None or wanted.text.lower() in row["text"].lower())
        and (wanted.least is None or (reward is not None and reward >= wanted.least))
        and (wanted.most is None or (reward is not None and reward <= wanted.most))
        and (wanted.first is None or row["step"] >= wanted.first)
        and (wanted.last is None or row["step"] <= wanted.last)
        and (wanted.prompt is None or row["prompt"] == wanted.prompt)
        and (not wanted.cut or row["finish"] == "length")
        and (not wanted.failed or reward is None)
    )


@pytest.mark.parametrize("wanted", FILTERS, ids=repr)
def test_a_filter_finds_what_a_search_through_the_files_finds(tmp_path: Path, wanted: Filter) -> None:
    drawn(tmp_path / "run")
    view = view_of(tmp_path / "run")
    assert view.completions_in(10.0) == (12, 12)
    expected = [row["text"] for row in by_hand(tmp_path / "run", 12) if fits(row, wanted)]
    total, found = view.index.page(wanted, "oldest", 0, 1000)
    assert total == len(expected)
    assert [row["text"] for row in found] == expected
    assert [row["text"] for some in view.index.every(wanted) for row in some] == expected
    _, newest = view.index.page(wanted, "newest", 0, 1000)
    assert [row["id"] for row in newest] == [row["id"] for row in found][::-1]


def test_pages_are_parts_of_one_order(tmp_path: Path) -> None:
    drawn(tmp_path / "run")
    view = view_of(tmp_path / "run")
    view.completions_in(10.0)
    for order in ORDERS:
        total, whole = view.index.page(Filter(least=0.0), order, 0, 1000)
        parts = [row for k in range(0, total, 7) for row in view.index.page(Filter(least=0.0), order, k, 7)[1]]
        assert parts == whole
        rewards = [row["reward"] for row in whole]
        if order in ("best", "worst"):
            assert all((a >= b) if order == "best" else (a <= b) for a, b in pairwise(rewards))
    assert view.index.page(Filter(), "newest", 10_000, 50) == (144, [])
    for order in ("best", "worst"):
        last = view.index.page(Filter(), order, 143, 1)[1]
        assert [row["reward"] for row in last] == [None], "what could not be scored is neither"


def test_a_growing_run_is_read_on(tmp_path: Path) -> None:
    """What was found before stays; only new steps are looked at, whatever the order."""
    log = drawn(tmp_path / "run", 5)
    view = view_of(tmp_path / "run")
    view.completions_in(10.0)
    before = {order: view.index.page(Filter(text="alpha"), order, 0, 1000)[0] for order in ORDERS}
    log.save_rollouts(5, [group(0, ["alpha one", "two"], [1.0, 0.0])])
    assert view.completions_in(10.0) == (5, 5), "a step counts once its metrics are there"
    log.metric(record(5, 0.5))
    assert view.completions_in(10.0) == (6, 6)
    for order in ORDERS:
        total, found = view.index.page(Filter(text="alpha"), order, 0, 1000)
        assert total == before[order] + 1
        assert [row["text"] for row in found].count("alpha one") == 1
    assert view.index.page(Filter(text="alpha"), "newest", 0, 1)[1][0]["text"] == "alpha one"


def test_steps_that_were_taken_back_are_forgotten(tmp_path: Path) -> None:
    """A resumed run samples them anew, and may sample something else; also where it is as long again when we look."""
    log = drawn(tmp_path / "run", 6)
    view = view_of(tmp_path / "run")
    view.completions_in(10.0)
    log.rewind(4)
    assert view.completions_in(10.0) == (4, 4)
    assert view.index.page(Filter(), "newest", 0, 1)[0] == 48
    for step in (4, 5):
        log.save_rollouts(step, [group(step, ["anew"], [1.0])])
        log.metric(record(step, 0.5))
    view.completions_in(10.0)
    assert [row["text"] for row in view.index.page(Filter(), "newest", 0, 3)[1]][:2] == ["anew", "anew"]
    log.rewind(5)
    log.save_rollouts(5, [group(5, ["once more"], [1.0])])
    log.metric(record(5, 0.5))
    assert view.completions_in(10.0) == (6, 6)
    assert view.index.page(Filter(), "newest", 0, 1)[1][0]["text"] == "once more"
    assert view.index.page(Filter(), "newest", 0, 1)[0] == 50


def test_an_index_is_made_in_parts_and_kept(tmp_path: Path) -> None:
    """Without patience a call takes in one step; another process goes on from there; another run has another one."""
    make(tmp_path / "run", 20)
    assert view_of(tmp_path / "run").completions_in(0.0) == (1, 20)
    assert view_of(tmp_path / "run").completions_in(0.0) == (2, 20)
    assert view_of(tmp_path / "run").completions_in(10.0) == (20, 20)
    make(tmp_path / "other", 3)
    assert view_of(tmp_path / "other").completions_in(1.0) == (3, 3)
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 2
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "cache" / "strange.sqlite").write_text(
        "no database, and longer than a header of one, so that it is read"
    )
    shutil.rmtree(tmp_path / "other")
    sweep(tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").glob("*.*")] == [".sqlite"], (
        "of runs that are gone there is none"
    )


def test_an_index_may_be_deleted_and_damaged_while_it_is_used(tmp_path: Path) -> None:
    drawn(tmp_path / "run")
    view = view_of(tmp_path / "run")
    view.completions_in(10.0)
    whole = view.index.page(Filter(), "newest", 0, 1000)
    discard(view.index.path)
    assert view.completions_in(10.0) == (12, 12)
    assert view.index.page(Filter(), "newest", 0, 1000) == whole
    discard(view.index.path)
    view.index.path.write_bytes(b"damaged " * 1000)
    assert view.completions_in(10.0) == (12, 12)
    assert view.index.page(Filter(), "newest", 0, 1000) == whole
    content = view.index.path.read_bytes()
    page = content.index(b"#### 7") // 4096 * 4096  # of completions, which a refresh does not read
    view.index.path.write_bytes(content[:page] + b"\xff" * 4096 + content[page + 4096 :])
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        list(view.index.every(Filter()))
    assert view.completions_in(10.0) == (12, 12)
    assert view.index.page(Filter(), "newest", 0, 1000) == whole, "it was made anew"


def test_two_processes_use_one_index(tmp_path: Path) -> None:
    """Each by views of its own: steps are in once, and one sees what the other took back."""
    log = drawn(tmp_path / "run", 60)
    problems: list[Exception] = []

    def read(view: RunView) -> None:
        try:
            while view.completions_in(0.0)[0] < 60:
                pass
        except Exception as problem:  # a thread's own does not fail a test
            problems.append(problem)

    first, second = view_of(tmp_path / "run"), view_of(tmp_path / "run")
    threads = [threading.Thread(target=read, args=(view,)) for view in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    wanted = Filter(least=0.5)
    assert first.index.page(wanted, "newest", 0, 5000) == second.index.page(wanted, "newest", 0, 5000)
    assert first.index.page(Filter(), "newest", 0, 1)[0] == 60 * 12
    log.rewind(59)
    log.save_rollouts(59, [group(59, ["anew"] * 12, [1.0] * 12)])
    log.metric(record(59, 0.5))
    first.completions_in(1.0)
    assert {row["text"] for row in second.index.page(wanted, "newest", 0, 12)[1]} == {"anew"}


def test_a_list_does_not_move_while_it_is_read(tmp_path: Path) -> None:
    log = drawn(tmp_path / "run", 3)
    view = view_of(tmp_path / "run")
    view.completions_in(1.0)
    upto = view.index.newest()
    before = {order: view.index.page(Filter(upto=upto, text="a"), order, 0, 99) for order in ORDERS}
    log.save_rollouts(3, [group(0, ["a"], [1.0])])
    log.metric(record(3, 0.5))
    view.completions_in(1.0)
    assert view.index.newest() == upto + 1
    for order in ORDERS:
        assert view.index.page(Filter(upto=upto, text="a"), order, 0, 99) == before[order]
    assert view.index.page(Filter(upto=upto), "newest", 0, 1)[1][0]["id"] == upto


def test_an_export_may_be_read_by_any_thread(tmp_path: Path) -> None:
    """As the server's pool does it."""
    drawn(tmp_path / "run", 4)
    view = view_of(tmp_path / "run")
    view.completions_in(1.0)
    parts = view.index.every(Filter())
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        assert len(one.submit(next, parts).result()) == 48
        assert other.submit(next, parts, None).result() is None


def test_lone_surrogates_are_no_trouble(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run")
    log.claim(CONFIG, "digest")
    log.save_rollouts(0, [group(3, ["a \ud800 b"], [1.0])])
    log.metric(record(0, 0.5))
    view = view_of(tmp_path / "run")
    view.completions_in(1.0)
    assert view.index.page(Filter(), "newest", 0, 1)[1][0]["text"] == "a ? b"
    assert json.loads(bytes(answer(view.step(0)).body))["groups"][0]["completions"][0]["text"] == "a \ud800 b"


def test_many_readers_at_once(tmp_path: Path) -> None:
    log = drawn(tmp_path / "run", 4)
    view = view_of(tmp_path / "run")
    problems: list[Exception] = []

    def look() -> None:
        try:
            for _ in range(20):
                view.completions_in(0.0)
                total, found = view.index.page(Filter(least=0.0), "best", 0, 1000)
                assert total == len(found)
        except Exception as problem:  # a thread's own does not fail a test
            problems.append(problem)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(4, 10):
        log.save_rollouts(step, [group(step, ["x", "y"], [1.0, 0.0])])
        log.metric(record(step, 0.5))
    for thread in threads:
        thread.join()
    assert problems == []
    view.completions_in(1.0)
    assert view.index.page(Filter(), "newest", 0, 1)[0] == 4 * 12 + 6 * 2


def test_a_run_that_was_sampled_anew_is_taken_in_anew(tmp_path: Path) -> None:
    """All of its last steps are others: then so may be those before them."""
    log = drawn(tmp_path / "run", 70)
    view = view_of(tmp_path / "run")
    view.completions_in(10.0)
    for step in range(70):
        log.save_rollouts(step, [group(step, ["anew"], [1.0])])
    assert view.completions_in(10.0) == (70, 70)
    assert view.index.page(Filter(), "oldest", 0, 1)[1][0]["text"] == "anew"
    assert view.index.newest() == 70


def test_many_filters_are_not_all_kept(tmp_path: Path) -> None:
    drawn(tmp_path / "run")
    view = view_of(tmp_path / "run")
    view.completions_in(10.0)
    totals = [view.index.page(Filter(least=k / 20), "newest", 0, 1)[0] for k in range(20)]
    assert [view.index.page(Filter(least=k / 20), "newest", 0, 1)[0] for k in range(20)] == totals
    assert len(view.index._found) == REMEMBERED


def test_a_step_that_cannot_be_read_is_not_half_in(tmp_path: Path) -> None:
    """What came before it in the same go is not in either, and is taken in when it can be."""

    def read(step: int) -> list[tuple[Any, ...]]:
        if step == 2 and not whole:
            raise OSError("the disk")
        return [(step, 0, 0, 0, 1.0, 0.0, 3, "stop", None, "?", "text")]

    whole: list[bool] = []
    index = Index(tmp_path / "cache", tmp_path / "run", str, read)
    with pytest.raises(OSError, match="the disk"):
        index.refresh(4, 10.0)
    assert index.newest() == 0
    whole.append(True)
    assert index.refresh(4, 10.0) == 4


def test_a_step_without_its_file_has_no_rows(tmp_path: Path) -> None:
    log = drawn(tmp_path / "run", 3)
    log.rollouts_path(1).unlink()
    view = view_of(tmp_path / "run")
    assert view.completions_in(10.0) == (3, 3)
    assert {row["step"] for some in view.index.every(Filter()) for row in some} == {0, 2}


def test_means_of_one_prompt_by_hand(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run")
    log.claim(CONFIG, "digest")
    log.save_rollouts(0, [group(3, ["a", "b", "c"], [1.0, 0.0, None])])
    log.save_rollouts(1, [group(3, ["a"], [None]), group(4, ["b"], [1.0])])
    for step in range(2):
        log.metric(record(step, 0.5))
    view = view_of(tmp_path / "run")
    view.completions_in(1.0)
    assert view.index.means(3) == [(0, 0.5), (1, None)]
    assert view.index.means(9) == []


def test_exports_say_all_and_run_nothing() -> None:
    """A spreadsheet takes a text that begins with = for a formula; JSONL is to the letter."""
    told = [
        {"id": 1, "step": 0, "text": '=HYPERLINK("http://evil")', "reward": -0.5},
        {"id": 2, "step": 9, "text": 'plain, "quoted"\nand long', "reward": None},
    ]
    lines = [json.loads(line) for line in "".join(exports.jsonl(iter([told[:1], told[1:]]))).splitlines()]
    assert lines == [told[0] | {"step": 1}, told[1] | {"step": 10}]
    read = list(csv.DictReader(io.StringIO("".join(exports.as_csv(iter([told[:1], told[1:]]))))))
    assert "".join(exports.as_csv(iter([]))).startswith("id,step,place,member,prompt,reward")
    assert [{name: value for name, value in row.items() if value} for row in read] == [
        {"id": "1", "step": "1", "text": '\'=HYPERLINK("http://evil")', "reward": "-0.5"},
        {"id": "2", "step": "10", "text": 'plain, "quoted"\nand long'},
    ]
