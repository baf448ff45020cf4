"""Protocols: their files, their runs, the report. The trainings are real ones, of a tiny model."""

import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from grpo import doctor
from grpo.bench import intervals, measured, picture, protocol
from grpo.bench.compare import Prices, beside, contrasts
from grpo.bench.curves import band, smooth
from grpo.bench.measured import Measured, Score
from grpo.bench.report import save_report
from grpo.bench.runs import plan_runs, seeds_there
from grpo.errors import CheckpointError, ConfigError
from grpo.runlog import RunLog

import runs

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = sorted((ROOT / "configs" / "bench").glob("*.toml"))


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in protocols count from where the command is run."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_every_protocol_can_be_planned(path: Path, tmp_path: Path) -> None:
    """All of its trainings are valid configurations, its points belong to it and have a source, its claims are made."""
    found = protocol.load(path)
    published = protocol.load_published(found)
    planned = plan_runs(found, tmp_path)
    assert len(planned) == len(found.variants) * len(found.seeds) == len({run.directory for run in planned})
    assert all(run.config.run.dir == run.directory and run.config.run.seed == run.seed for run in planned)
    assert all(source.url.startswith("https://") for source in published.sources.values())
    assert found.claims.not_comparable
    assert path.read_text().startswith(f"# .venv/bin/grpo bench bedrock {path.stem}\n")
    needs_data = not all(p.is_file() for p in (planned[0].config.data.train, planned[0].config.data.test) if p)
    assert not needs_data or found.prepare


def test_an_epoch_is_as_long_as_the_rows_it_says() -> None:
    """The rows are those that the protocol's own command writes: GSM8K has 7,473 to train."""
    for name, steps in (("aws-walkthrough", 67), ("aws-learning-rates", 15), ("nova-gsm8k", 186)):
        found = protocol.load(protocol.path_of(name))
        words = (found.prepare or "").split()
        given = {
            word: int(words[place + 1])
            for place, word in enumerate(words)
            if words[place + 1 :] and words[place + 1].isdigit()
        }
        left = 7473 - given.get("--test-from-train", 0) - given["--heldout"]
        (run, *_) = plan_runs(found, Path("out"))
        assert run.config.run.steps == steps == given.get("--train", left) // run.config.rollout.prompts_per_step


def test_what_a_protocol_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such protocol.*cpu-arithmetic"):
        protocol.path_of("cpu-arithmetics")
    found = protocol.load(protocol.path_of("cpu-ablation"))
    with pytest.raises(ConfigError, match="no variant 'rank-2'; the protocol has default"):
        plan_runs(found, tmp_path, variants=["rank-2"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = 1", r"title: Input should be a valid string"),
        ('title = "x"\nconfig = "c"\nneeds = "tpu"', "needs: Input should be 'cpu' or 'gpu'"),
        ('title = "x"\nconfig = "c"\nneeds = "cpu"\nseedz = [1]', "seedz: Extra inputs are not permitted"),
        ('title = "x"\nconfig = "c"\nneeds = "cpu"\nvariants = [{name = "a"}, {name = "a"}]', "the same name: a, a"),
        ('title = "x"\nconfig = "c"\nneeds = "cpu"\nvariants = [{name = "../a"}]', "variants.0.name"),
        ("title = ", "cannot be read"),
    ],
)
def test_a_wrong_protocol_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        protocol.load(path)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ('metric = "entropy"\nsource = "nobody"\nhow = "h"\nlow = 1\nhigh = 1', "no source of that name: nobody"),
        ('metric = "entropy"\nsource = "s"\nhow = "h"\nlow = 2\nhigh = 1', "low = 2.0 is above high = 1.0"),
        ('metric = "entropy"\nsource = "s"\nhow = "h"\nlow = 1\nhigh = 1\nvariant = "b"', "points of variants"),
    ],
)
def test_a_wrong_publication_says_where(tmp_path: Path, points: str, said: str) -> None:
    path = tmp_path / "published.toml"
    path.write_text(f'[sources.s]\ntitle = "t"\nurl = "https://x"\n[[points]]\n{points}\n')
    with pytest.raises(ConfigError, match=said):
        protocol.load_published(protocol.Protocol(title="t", config=Path("c"), needs="cpu", published=path))


def test_differences_are_those_of_least_squares() -> None:
    """Against numpy's least squares on the model's own design matrix, and Dunnett's table: 3.10 for three against a
    control with 6 degrees of freedom."""
    draw = np.random.default_rng(0)
    table = draw.normal(size=(4, 3))
    design = np.zeros((12, 6))
    for place, (variant, seed) in enumerate((v, s) for v in range(4) for s in range(3)):
        design[place, 0] = 1
        if variant:
            design[place, variant] = 1
        if seed:
            design[place, 3 + seed] = 1
    found, rest, *_ = np.linalg.lstsq(design, table.ravel(), rcond=None)
    error = np.sqrt(rest[0] / 6 * np.linalg.inv(design.T @ design)[1, 1])
    ours = intervals.differences(table.tolist())
    assert ours is not None
    assert [d.mean for d in ours[1:]] == pytest.approx(found[1:4].tolist())
    for difference in ours[1:]:
        assert difference.high - difference.mean == pytest.approx(3.10 * error, rel=2e-3)
    assert (ours[0].mean, ours[0].low, ours[0].high) == (0.0, 0.0, 0.0)
    assert intervals.differences([[1.0, 2.0]]) is intervals.differences([[1.0], [2.0]]) is None


@pytest.mark.parametrize(
    ("comparisons", "freedom", "printed"), [(1, 5, 2.57), (2, 6, 2.86), (3, 8, 2.88), (5, 12, 2.90), (9, 20, 2.95)]
)
def test_intervals_are_as_wide_as_in_dunnetts_table(comparisons: int, freedom: int, printed: float) -> None:
    """Dunnett, New multiple comparisons with a control, Biometrics 20 (1964), table II, two-sided, 5 %."""
    assert intervals.errors_wide(comparisons, freedom) == pytest.approx(printed, abs=0.0051)


def test_intervals_are_as_wide_as_scipys() -> None:
    """Its ``dunnett``, by quasi-Monte Carlo, on one-way data: four groups of three, so 8 degrees of freedom."""
    table = np.random.default_rng(0).normal(size=(4, 3))
    theirs = scipy.stats.dunnett(*table[1:], control=table[0], rng=np.random.default_rng(1)).confidence_interval()
    error = np.sqrt(table.var(axis=1, ddof=1).mean() * 2 / 3)
    assert (theirs.high - theirs.low) / 2 / error == pytest.approx(np.full(3, intervals.errors_wide(3, 8)), rel=1e-3)


def test_intervals_hold_what_they_say() -> None:
    """In 95 % of 4,000 tables without any effect all four differences cover 0, within four standard errors of that."""
    draw = np.random.default_rng(1)
    tables = draw.normal(size=(4000, 5, 3)) + draw.normal(size=(4000, 1, 3))
    found = [intervals.differences(table.tolist())[1:] for table in tables]  # type: ignore[index]
    covered = [all(difference.low < 0 < difference.high for difference in row) for row in found]
    assert abs(np.mean(covered) - 0.95) < 4 * (0.95 * 0.05 / 4000) ** 0.5
    single = [intervals.interval(row.tolist()) for row in draw.normal(size=(4000, 3))]
    assert abs(np.mean([low < 0 < high for low, high in single if low]) - 0.95) < 4 * (0.95 * 0.05 / 4000) ** 0.5  # type: ignore[misc]
    assert intervals.interval([1.0]) is None


def made(variant: str = "only", seed: int = 0, steps: int = 8, level: float = 0.0, **more: Any) -> Measured:
    """A finished run whose reward is step / 10 + level."""
    tuned = (0.5 + level, 0.4 + level, 0.6 + level)
    score = Score(base=(0.1, 0.05, 0.15), tuned=tuned, gain=None, completions=8, errors=0)
    rewards = [step / 10 + level for step in range(steps)]
    curves = {name: [20.0] * steps for name in ("completion_tokens", "grad_norm")}
    curves |= {"train_reward": rewards, "entropy": [None, *[1.0] * (steps - 1)]}
    told: dict[str, Any] = {"status": "plateau", "budget": 100, "steps": steps, "tokens": 2_000_000, "seconds": 1800.0}
    told |= {
        "curves": curves,
        "half_widths": [0.05] * steps,
        "heldout": [(4, 0.3, 0.2, 0.4)],
        "scores": {"reward": score},
    }
    return Measured(variant=variant, seed=seed, directory="d", **(told | more))


def point(**values: Any) -> protocol.Point:
    return protocol.Point(**({"metric": "train_reward", "source": "s", "how": "h", "low": 0.5, "high": 0.9} | values))


def published_with(*points: protocol.Point) -> protocol.Published:
    return protocol.Published(sources={"s": protocol.Source(title="t", url="u")}, points=points)


NOT_RUN: dict[str, Any] = {
    "steps": 0,
    "status": "not run",
    "curves": {},
    "half_widths": [],
    "heldout": [],
    "scores": {},
}


def test_published_points_meet_ours_at_their_step() -> None:
    """By hand: five steps up to the seventh of 0.0, 0.1, ... have the mean 0.4; two seeds 0.1 apart span 0.4 to 0.5."""
    published = published_with(
        point(step=7),
        point(step=9),
        point(metric="heldout_reward", step=5),
        point(metric="heldout_reward", step=3),
        point(metric="test_reward"),
        point(metric="entropy"),
        point(),
    )
    found = [one.ours for one in beside([made(), made(seed=1, level=0.1)], published)]
    assert found[0] == pytest.approx((0.45, 0.4, 0.5))
    assert found[1] is None, "no run got that far"
    assert found[2] == pytest.approx((0.3, 0.3, 0.3))
    assert found[3] is None, "no evaluation by then"
    assert found[4] == pytest.approx((0.55, 0.5, 0.6))
    assert found[5] == pytest.approx((1.0, 1.0, 1.0)), (
        "steps that trained nothing have no entropy, and count for nothing"
    )
    assert found[6] == pytest.approx((0.55, 0.5, 0.6)), "the end: 0.3 to 0.7"
    alone = beside([made()], published)[0].ours
    half = 0.05 / 5**0.5
    assert alone == pytest.approx((0.4, 0.4 - half, 0.4 + half)), (
        "a single seed has the interval of a mean of five steps"
    )
    assert [one.ours for one in beside([made(**NOT_RUN)], published)] == [None] * 7


def test_what_a_run_has_not_reached_is_not_made_up() -> None:
    """Of a run that goes on, and of one that was killed early beside finished ones."""
    published = published_with(
        point(step=7), point(), point(metric="heldout_reward", step=7), point(metric="heldout_reward")
    )
    going = made(status="unfinished", steps=5, scores={})
    assert [one.ours for one in beside([going], published)] == [None] * 4
    together = beside(
        [made(), made(seed=1, level=0.1), made(seed=2, status="unfinished", steps=1, scores={})], published
    )
    assert together[0].ours == pytest.approx((0.45, 0.4, 0.5))
    assert together[2].ours == pytest.approx((0.3, 0.3, 0.3))


def test_a_running_mean_leaves_gaps_out() -> None:
    assert smooth([1.0, None, 3.0]).tolist() == [1.0, 1.0, 2.0]
    assert np.isnan(smooth([None])).all()
    middle, low, high = band([made(), made(steps=6, level=0.2)], "train_reward")
    assert len(middle) == 8
    assert (middle[5], low[5], high[5]) == pytest.approx((0.4, 0.3, 0.5))
    assert (middle[7], low[7], high[7]) == pytest.approx((0.5, 0.5, 0.5)), "one run is left"


def test_variants_are_compared_over_seeds_that_all_have() -> None:
    """Both over as many steps as the shortest run has: of 0.0 to 0.7 the first six have the mean 0.25."""
    every = [made(v, s, level=level + s / 50) for v, level in (("a", 0.0), ("b", 0.2)) for s in (0, 1)]
    found = contrasts([*every, made("a", 2), made("c", 0, steps=3), made("d", **NOT_RUN)])
    assert [(one.variant, one.seeds) for one in found] == [("a", 2), ("b", 2)]
    assert found[1].test_difference.mean == pytest.approx(0.2)
    assert found[1].curve == pytest.approx(0.35 + 0.2 + 0.01)
    short = contrasts([*every[:3], made("b", 1, steps=6, level=0.22)])
    assert short[0].curve == pytest.approx(0.25 + 0.01)
    assert contrasts(every[:3]) == [], "one seed is no comparison"
    assert contrasts([]) == []


def test_cost_is_hours_and_tokens_at_the_users_prices() -> None:
    """Half an hour at 10 and two million tokens at 0.5 are 6."""
    assert Prices(hour=10, million_tokens=0.5).cost(made()) == pytest.approx(6.0)
    assert Prices().cost(made()) is None
    assert Prices(hour=10).cost(made(seconds=None)) is None
    assert Prices(million_tokens=0.5).cost(made(seconds=None)) == pytest.approx(1.0)
    assert Prices(million_tokens=0.5).cost(made(status="unfinished")) is None
    assert made(gpus=2).gpu_hours == pytest.approx(1.0)
    assert made().gpu_hours is None


class Links(HTMLParser):
    """Where a page's elements lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {(value or "").partition(";")[0] for name, value in attrs if name in ("src", "href")}

    @classmethod
    def of(cls, text: str) -> set[str]:
        links = cls()
        links.feed(text)
        return links.found


def test_a_report_escapes_what_it_is_told(tmp_path: Path) -> None:
    """And loads nothing: no address is in it but as text."""
    hostile = "<script src='https://x/y.js'>"
    source = protocol.Source(title=hostile, url="https://x")
    published = protocol.Published(
        sources={"s": source}, points=(point(how=hostile),), end=protocol.End(source="s", steps=5)
    )
    claims = protocol.Claims(published=(hostile,))
    told = protocol.Protocol(title=hostile, config=Path("c"), needs="cpu", claims=claims)
    half_known = made(reason=hostile, half_widths=[float("nan")] * 8)
    save_report(told, published, [half_known, made("b", **NOT_RUN)], Prices(), tmp_path)
    assert "NaN" not in (tmp_path / "report.json").read_text()
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert "not run" in text
    assert Links.of(text) == {"data:image/png"}
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "grpo", "bench", *words], capture_output=True, text=True, timeout=300)


@pytest.fixture
def tiny_protocol(tiny_run, tmp_path: Path) -> Path:
    """Two variants of two seeds, with a grader besides the reward; nothing but the tiny model is needed."""
    (tmp_path / "published.toml").write_text(
        '[sources.s]\ntitle = "t"\nurl = "https://x"\n[end]\nsource = "s"\nsteps = 5\n'
        '[[points]]\nmetric = "train_reward"\nsource = "s"\nhow = "h"\nstep = 2\nlow = 0.2\nhigh = 0.4\n'
    )
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'title = "tiny"\nconfig = "{tiny_run("training", steps=3)}"\nneeds = "cpu"\nseeds = [0, 1]\n'
        f'published = "{tmp_path}/published.toml"\n'
        '[measures.letters]\nbuiltin = "regex"\noptions = { pattern = "[a-z]" }\n'
        '[[variants]]\nname = "slow"\n[[variants]]\nname = "fast"\nset = ["update.learning_rate=1e-2"]\n'
    )
    return path


@pytest.mark.slow
def test_a_protocol_from_nothing_to_its_report(tiny_protocol: Path, tmp_path: Path) -> None:
    """Not run; then one variant; then, after a kill, the rest: what was finished is not done again."""
    out = tmp_path / "out"
    words = ("bedrock", str(tiny_protocol), "--out", str(out), "--json")
    assert json.loads(bench(*words, "--report-only").stdout)["state"] == "not run"
    first = bench(*words, "--variant", "fast", "--seed", "1", "--hour-price", "3600")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told["state"] == "1 of 4 runs finished"
    (run,) = [run for run in told["runs"] if run["steps"]]
    assert run["cost"] == pytest.approx(run["seconds"])
    finished = out / "fast" / "seed-1" / "result.json"
    before = finished.stat().st_mtime_ns
    again = [sys.executable, "-m", "grpo", "bench", *words, "--variant", "fast", "--seed", "0"]
    process = subprocess.Popen(again, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    runs.wait_for_step(process, out / "fast" / "seed-0", 1)
    runs.kill(process)
    _all_gone(out)
    done = bench(*words)
    assert done.returncode == 0, done.stderr
    assert finished.stat().st_mtime_ns == before
    told = json.loads(done.stdout)
    assert told == json.loads((out / "report.json").read_text())
    assert told["state"] == "4 of 4 runs finished"
    by_name = {(run["variant"], run["seed"]): run for run in told["runs"]}
    _is_what_the_run_wrote(by_name["slow", 0], out / "slow" / "seed-0")
    assert by_name["fast", 0]["seconds"] is None, "it was killed: its wall-clock is on no clock"
    assert by_name["slow", 0]["seconds"] > by_name["slow", 0]["step_seconds"] > 0
    assert [one["variant"] for one in told["against_the_first"]] == ["slow", "fast"]
    assert len(told["beside"]) == 2
    assert "tiny: 4 of 4 runs finished" in bench(*words[:-1]).stdout


def _all_gone(out: Path) -> None:
    """The training dies with the command that started it."""
    deadline = time.monotonic() + 30
    while runs.alive(str(out)):
        assert time.monotonic() < deadline, "the training lives on"
        time.sleep(0.1)


def _is_what_the_run_wrote(told: dict[str, Any], run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    assert told["status"] == result["verdict"] == "budget_exhausted"
    assert told["curves"]["train_reward"] == [line["critic_rewards_mean"] for line in lines]
    assert told["completions"] == 3 * 16
    assert told["tokens"] == sum(line["sampled_tokens"] for line in lines)
    assert (told["gpus"], told["gpu_hours"]) == (0, None)
    assert told["device"].endswith(f" {len(os.sched_getaffinity(0))} cores")
    reward = told["scores"]["reward"]
    assert reward["base"] == pytest.approx([result["base"][name] for name in ("mean", "low", "high")])
    assert reward["tuned"] == pytest.approx([result["tuned"][name] for name in ("mean", "low", "high")])
    rows = [json.loads(line) for line in (run / "evals" / "test_tuned.jsonl").read_text().splitlines()]
    found = [[bool(re.search("[a-z]", c["text"])) for c in row["completions"]] for row in rows]
    assert told["scores"]["letters"]["tuned"][0] == pytest.approx(np.mean([np.mean(each) for each in found]))


def test_every_kind_of_published_value_is_drawn(tmp_path: Path) -> None:
    """A panel for each metric; of a variant by its name; held-out values as points."""
    points = (point(variant="a"), point(metric="heldout_reward", step=4), point(metric="entropy", step=2))
    picture.save_picture([made("a"), made("b", **NOT_RUN)], published_with(*points), "title", tmp_path / "three.png")
    picture.save_picture([made("b", **NOT_RUN)], published_with(), "title", tmp_path / "one.png")
    heights = [int.from_bytes((tmp_path / name).read_bytes()[20:24], "big") for name in ("three.png", "one.png")]
    assert heights == [150 * 11.5, 150 * 4.5]


@pytest.mark.parametrize("count", [1, 10, 12, 20])
def test_no_two_variants_have_one_colour(count: int) -> None:
    assert len(set(picture.colours(count))) == count


def test_a_run_without_test_prompts_has_no_scores(tmp_path: Path) -> None:
    assert measured._scores(RunLog(tmp_path), {}) == {}


def test_a_training_that_fails_ends_the_protocol(tiny_protocol: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bench("bedrock", str(tiny_protocol), "--out", str(out), "--set", "data.max_prompt_tokens=1")
    assert done.returncode == 1
    assert "slow, seed 0 did not finish: mend what is said above" in done.stderr
    assert not (out / "fast").exists()


def test_other_settings_want_another_directory(tiny_protocol: Path, tmp_path: Path) -> None:
    """A report never has numbers of other settings than it names."""
    found, out = protocol.load(tiny_protocol), tmp_path / "out"
    (run, *_) = plan_runs(found, out)
    run.directory.mkdir(parents=True)
    (run.directory / "config.json").write_text(json.dumps({"digest": run.config.digest()}))
    assert len(plan_runs(found, out)) == 4
    with pytest.raises(CheckpointError, match="has a run with other settings"):
        plan_runs(found, out, overrides=["update.learning_rate=1"])
    (tmp_path / "reward.py").write_text("changed = True\n")
    with pytest.raises(CheckpointError, match="files that have changed since"):
        plan_runs(found, out)
    (out / "fast" / "seed-7").mkdir(parents=True)
    assert seeds_there(found, out) == [0, 1, 7]


def test_what_is_missing_is_said_before_any_training(tiny_protocol: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    done = bench("bedrock", "aws-walkthrough", *out)
    assert done.returncode == 1
    assert "no such file. Make it with: .venv/bin/python scripts/gsm8k.py --form hashes" in done.stderr
    text = tiny_protocol.read_text()
    done = bench("bedrock", str(tiny_protocol), *out, "--set", f"model.path={ROOT}/configs/models/qwen3-0.6b")
    assert "no weights there" in done.stderr
    tiny_protocol.write_text(text.replace('builtin = "regex"', 'file = "nowhere.py"').replace("options", "# options"))
    assert "measures.letters: nowhere.py: no such file" in bench("bedrock", str(tiny_protocol), *out).stderr
    if not doctor.gpus():
        tiny_protocol.write_text(text.replace('needs = "cpu"', 'needs = "gpu"'))
        assert "the protocol needs a GPU" in bench("bedrock", str(tiny_protocol), *out).stderr
    assert not (tmp_path / "out").exists()


def test_the_list_of_protocols() -> None:
    told = json.loads(bench("protocols", "--json").stdout)
    assert sorted(told) == [path.stem for path in PROTOCOLS]
    assert told["cpu-ablation"]["runs"] == 36
    assert "cpu-arithmetic" in bench("protocols").stdout


@pytest.mark.slow
def test_two_ranks_by_accelerate_agree_with_one(tiny_run, tmp_path: Path) -> None:
    """``--ranks 2`` launches them; rewards of the first step are the same, gradients to fp32 rounding."""
    path = tmp_path / "ranks.toml"
    path.write_text(f'title = "ranks"\nconfig = "{tiny_run("training", steps=2)}"\nneeds = "cpu"\n')
    for count in ("1", "2"):
        done = bench("bedrock", str(path), "--out", str(tmp_path / count), "--ranks", count)
        assert done.returncode == 0, done.stderr
    one, two = (tmp_path / count / "only" / "seed-0" for count in ("1", "2"))
    started = [json.loads(line) for line in (two / "events.jsonl").read_text().splitlines()]
    assert [event["ranks"] for event in started if event["event"] == "start"] == [2]
    first, second = runs.metrics(one)[0], runs.metrics(two)[0]
    assert first["critic_rewards_mean"] == second["critic_rewards_mean"]
    assert first["actor_grad_norm"] == pytest.approx(second["actor_grad_norm"], rel=1e-5)
