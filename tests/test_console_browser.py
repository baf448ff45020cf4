"""The console in a real browser: every view, hostile text, keyboards and screen readers, a job while it trains."""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_text import payloads
from made_run import CONFIG, make, record
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from test_console import Ui
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel

from grpo import engine
from grpo.runlog import RunLog
from grpo.types import Completion, Group, Prompt, Reward

from servers import KEY, Served, method, rows

ROOT = Path(__file__).resolve().parent.parent
AXE = ROOT / ".cache" / "clients" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: make system")
VIEWS = (
    *("/", "/run/arithmetic", "/run/arithmetic/step/12", "/run/arithmetic/prompt/9"),
    *("/run/arithmetic/completions", "/run/arithmetic/completions?text=twelve", "/compare?run=arithmetic&run=going"),
)
SERVED_VIEWS = ("/", "/new", "/play", "/grader")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield found
        found.close()


def failing(directory: Path) -> None:
    """Half of the completions cannot be scored; the stop rule has looked."""
    log = RunLog(directory)
    log.claim(CONFIG | {"update": {"learning_rate": 1.0}}, "digest")
    for step in range(20):
        log.metric(record(step, 0.2 + step / 40, reward_error_share=0.5))
        log.save_rollouts(step, [])
    told = {"window": 16, "alpha_spent": 0.01, "noise": 0.1, "flat": False}
    log.event("look", step=20, bound=0.25, stop_steps=[25, 30, 40], stop_rewards=[0.8, 0.9, 1.0], **told)


def coloured(directory: Path, model: Path) -> None:
    """Two completions, whose tokens have probabilities 1/4, 1 and 1/2."""
    model.mkdir()
    tokenizer = Tokenizer(WordLevel({"Hi": 0, "!": 1, " you": 2, "No": 3}))
    tokenizer.decoder = Fuse()
    tokenizer.save(str(model / "tokenizer.json"))
    log = RunLog(directory)
    log.claim(CONFIG | {"model": {"path": str(model)}}, "digest")
    logprobs = (math.log(0.25), 0.0, math.log(0.5))
    told = (
        Completion(token_ids=(0, 1, 2), logprobs=logprobs, text="Hi! you", finish_reason="stop"),
        Completion(token_ids=(3,), logprobs=(-1.0,), text="No", finish_reason="stop"),
    )
    prompt = Prompt(index=0, messages=({"role": "user", "content": "Greet me."},), token_ids=(1,))
    log.save_rollouts(0, [Group(prompt=prompt, completions=told, rewards=(Reward(value=1.0), Reward(value=0.0)))])
    log.metric(record(0, 0.5))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ui, Path]]:
    folder = tmp_path_factory.mktemp("shown")
    make(folder / "runs" / "arithmetic", 12)
    make(folder / "runs" / "going", 4, ended=False, config={"update": {"learning_rate": 3e-4}})
    make(folder / "runs" / "hostile", 2, texts=payloads())
    failing(folder / "runs" / "failing")
    coloured(folder / "runs" / "coloured", folder / "model")
    ui = Ui(folder / "runs", folder / "home")
    yield ui, folder / "runs"
    ui.stop()


@pytest.fixture(scope="module")
def cookie(browser: Browser, shown: tuple[Ui, Path]) -> Any:
    """Of one login by the link, as a person does it."""
    page = browser.new_page()
    page.goto(shown[0].link)
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    assert "login" not in page.url
    return page.context.storage_state()


class Watched:
    """A page whose errors are kept."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.url, self.errors = url, []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def open(self, view: str) -> Page:
        """A view, once its data are there."""
        self.page.goto(f"{self.url}/#{view}")
        expect(self.page.locator("h1")).to_be_visible()
        self.page.wait_for_load_state("networkidle") if "/run/" not in view else self.page.wait_for_timeout(300)
        return self.page


@pytest.fixture
def watched(browser: Browser, shown: tuple[Ui, Path], cookie: Any) -> Iterator[Watched]:
    context = browser.new_context(storage_state=cookie, viewport={"width": 1280, "height": 900})
    found = Watched(context, shown[0].url)
    yield found
    assert found.errors == []
    context.close()


def test_from_the_table_to_a_single_completion(watched: Watched) -> None:
    """By clicks alone: a run, its curve, a step, a bar of the histogram, a prompt, its completions."""
    page = watched.open("/")
    assert page.locator("tbody tr").count() == 5
    page.get_by_label("Filter runs").fill("arith")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="arithmetic").click()
    expect(page.get_by_text("the next 20 steps gain less than 0.02").first).to_be_visible()
    assert page.locator(".card").count() >= 4
    chart = page.get_by_role("img", name="Reward of arithmetic by step").locator(".u-over")
    box = chart.bounding_box()
    assert box
    chart.click(position={"x": box["width"] - 2, "y": box["height"] / 2})
    expect(page.get_by_role("heading", name="Step 12")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name=re.compile("^2 completions with a reward from 0.92 to 1")).click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator("tbody button").first.click()
    first = page.locator(".completion").first
    expect(first.locator(".reward")).to_have_text("1")
    expect(first).to_contain_text("advantage 0.78")  # by hand: 0.375 / sqrt(0.6875 / 3)
    expect(page.locator(".completion")).to_have_count(4)
    page.get_by_role("link", name="this prompt across steps").click()
    expect(page.get_by_role("heading", name=re.compile("^Prompt"))).to_be_visible()


def test_search_finds_and_marks(watched: Watched) -> None:
    """Of 12 steps with two groups of four, one completion in four ends with #### 3."""
    page = watched.open("/run/arithmetic")
    page.get_by_label("Search completions").fill("#### 3")
    page.get_by_label("Search completions").press("Enter")
    expect(page.locator("mark").first).to_have_text("#### 3")
    expect(page.get_by_role("status").first).to_have_text("24 completions")


def test_completions_are_filtered_ordered_and_scrolled(watched: Watched) -> None:
    """Rows are made as they come into view; the address keeps the filter; what is saved is what is shown."""
    page = watched.open("/run/arithmetic/completions")
    expect(page.get_by_role("status").first).to_have_text("96 completions")
    assert page.locator(".completionrow").count() < 40
    expect(page.locator(".completionrow a").first).to_have_text("step 12")
    page.locator(".rows").evaluate("e => e.scrollTop = e.scrollHeight")
    expect(page.locator(".completionrow a").last).to_have_text("prompt 0")
    page.get_by_label("Order").select_option("worst")
    expect(page.locator(".completionrow .reward").first).to_have_text("0")
    page.get_by_label("not scored").check()
    expect(page.get_by_role("status").first).to_have_text("12 completions")
    expect(page.locator(".completionrow .tag").first).to_have_text("not scored")
    page.get_by_label("not scored").uncheck()
    page.get_by_label("Step from").fill("3")
    page.get_by_label("Step to").fill("4")
    page.get_by_label("Reward from").fill("1")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("status").first).to_have_text("4 completions")  # two of prompt's four in each step
    assert "least=1" in page.url
    page.reload()
    expect(page.get_by_role("status").first).to_have_text("4 completions")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save as JSONL").click()
    lines = [json.loads(line) for line in Path(saved.value.path()).read_text().splitlines()]
    assert [(line["step"], line["reward"]) for line in lines] == [(3, 1.0), (3, 1.0), (4, 1.0), (4, 1.0)]
    page.locator(".completionrow a").first.click()
    expect(page.get_by_role("heading", name="Step 4")).to_be_visible()


def test_runs_are_compared(watched: Watched) -> None:
    page = watched.open("/")
    assert page.get_by_role("button", name="Compare", exact=True).is_disabled()
    page.get_by_label("Compare arithmetic").check()
    page.get_by_label("Compare going").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("heading", name="Runs compared")).to_be_visible()
    expect(page.get_by_role("img", name="Reward of arithmetic, going")).to_be_visible()
    expect(page.get_by_role("region", name="Differences")).to_contain_text("update.learning_rate")


def test_what_seems_wrong_is_said(watched: Watched) -> None:
    """A run whose grader fails, and the stop rule's bound and forecast."""
    page = watched.open("/run/failing")
    expect(page.get_by_role("alert")).to_contain_text("50% of the completions could not be scored")
    expect(page.get_by_text("Forecast: flat by step 30 (25 to 40), reward 0.9")).to_be_visible()
    expect(page.get_by_role("img", name="Upper bound of the gain, by look")).to_be_visible()
    expect(page.get_by_text("the least that this run can certify")).to_have_count(0)  # its configuration is not whole


def test_tokens_are_coloured(watched: Watched, shown: tuple[Ui, Path]) -> None:
    """By hand: probability 1/4 lacks 75 of a hundred; the worse completion is lowered, the better one raised."""
    page = watched.open("/run/coloured/step/1")
    shade = page.get_by_label("Colour tokens by")
    shade.select_option("probability")
    tokens = page.locator(".completion").first.locator(".token")
    expect(tokens).to_have_count(3)
    assert tokens.evaluate_all("found => found.map(e => e.textContent)") == ["Hi", "!", " you"]
    assert tokens.evaluate_all("found => found.map(e => e.style.getPropertyValue('--share'))") == ["75%", "0%", "50%"]
    shade.select_option("push")
    expect(page.locator(".completion").first.locator(".token.raised")).to_have_count(3)
    expect(page.locator(".completion").nth(1).locator(".token.lowered")).to_have_count(1)
    shade.select_option("none")
    expect(page.locator(".token")).to_have_count(0)


def test_a_run_that_goes_on_is_followed(watched: Watched, shown: tuple[Ui, Path]) -> None:
    page = watched.open("/run/going")
    facts = page.locator("dl.facts")
    expect(facts).to_contain_text("4 / 100")
    with (shown[1] / "going" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record(4, 0.875)) + "\n")
    expect(facts).to_contain_text("5 / 100")
    expect(facts).to_contain_text("0.875")


def test_hostile_completions_are_text(browser: Browser, shown: tuple[Ui, Path], cookie: Any) -> None:
    """Three hundred of them: shown to the letter, nothing runs, nothing is fetched from anywhere else."""
    context = browser.new_context(storage_state=cookie)
    page = context.new_page()
    hits: list[str] = []
    foreign: list[str] = []
    page.expose_function("__hit", lambda name: hits.append(name))
    page.on("dialog", lambda dialog: (hits.append("dialog"), dialog.dismiss()))
    page.on("request", lambda asked: foreign.append(asked.url) if not asked.url.startswith(shown[0].url) else None)
    page.goto(f"{shown[0].url}/#/run/hostile/step/2")
    texts = page.locator(".completion .text")
    expect(texts).to_have_count(300)
    assert texts.evaluate_all("found => found.map(e => e.textContent)") == payloads()
    assert page.locator(".completion .text *").count() == 0
    page.goto(f"{shown[0].url}/#/run/hostile/completions?text=script")
    expect(page.locator("mark").first).to_be_visible()
    page.wait_for_timeout(500)
    assert hits == []
    assert foreign == []
    context.close()


def barriers(page: Page, view: str, width: int) -> None:
    """None that axe-core calls serious, and nothing wider than the screen."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    serious = [
        (v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert serious == [], view
    assert page.evaluate("document.documentElement.scrollWidth") <= width, view


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_serious_barrier(browser: Browser, shown: tuple[Ui, Path], cookie: Any, scheme: Any, width: int) -> None:
    """axe-core on every view; nothing wider than the screen."""
    if not AXE.exists():
        pytest.skip("axe-core is missing: make clients")
    context = browser.new_context(storage_state=cookie, color_scheme=scheme, viewport={"width": width, "height": 844})
    watched = Watched(context, shown[0].url)
    for view in VIEWS:
        page = watched.open(view)
        barriers(page, view, width)
    assert watched.errors == []
    context.close()


def test_the_keyboard_is_enough(watched: Watched) -> None:
    """To a run by tab and enter alone."""
    page = watched.open("/")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "arithmetic":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="arithmetic")).to_be_visible()


def test_who_is_not_logged_in_is_told_how(browser: Browser, shown: tuple[Ui, Path]) -> None:
    page = browser.new_context().new_page()
    page.goto(shown[0].url)
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(page.get_by_text("grpo console")).to_be_visible()
    page.goto(f"{shown[0].url}/?again#login=wrong")
    expect(page.get_by_role("alert")).to_contain_text("this link was used")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    server = Served(folder / "data", tiny_model)
    server.deploy(folder)
    (folder / "prompts.jsonl").write_bytes(rows(16))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def state(browser: Browser, served: Served) -> Any:
    """Logged in at the server."""
    link = re.search(r"http://\S+/#login=\S+", served.banner)
    assert link
    page = browser.new_page()
    page.goto(link[0])
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    return page.context.storage_state()


@pytest.fixture
def here(browser: Browser, served: Served, state: Any) -> Iterator[Watched]:
    context = browser.new_context(storage_state=state, viewport={"width": 1280, "height": 900})
    found = Watched(context, served.url.removesuffix("/v1"))
    yield found
    assert found.errors == []
    context.close()


def test_a_job_by_form_while_it_trains(here: Watched, served: Served) -> None:
    """Uploaded, started, followed step by step, paused, resumed, and looked into; the code shown makes the same job."""
    page = here.open("/new")
    page.get_by_label("Upload others").set_input_files(served.data.parent / "prompts.jsonl")
    expect(page.get_by_label("Prompts", exact=True)).to_contain_text("prompts.jsonl")
    page.get_by_label("Model").select_option("tiny")
    page.get_by_label("Epochs").fill("10")
    page.get_by_label("Prompts a step").fill("4")
    page.get_by_label("Seed").fill("7")
    code = page.get_by_label("The same by the OpenAI SDK")
    expect(code).to_contain_text('"n_epochs": 10')
    shown = code.text_content()
    page.get_by_role("button", name="Start the job").click()
    facts = page.locator("dl.facts")
    expect(facts).to_contain_text("/ 40", timeout=60_000)
    expect(facts).to_contain_text(re.compile("Steps[1-9]"), timeout=90_000)
    page.get_by_role("button", name="Pause").click()
    expect(facts).to_contain_text("paused", timeout=30_000)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Cancel").click()
    expect(facts).to_contain_text("cancelled", timeout=30_000)
    job = served.client().fine_tuning.jobs.list().data[0]
    made: dict[str, Any] = {}
    exec(shown.replace('api_key="..."', "api_key=KEY"), {"KEY": KEY}, made)  # the code that the page shows
    again = made["job"]
    served.client().fine_tuning.jobs.cancel(again.id)
    assert (again.method, again.seed, again.training_file) == (job.method, job.seed, job.training_file)
    page.get_by_role("link", name="All completions").click()
    expect(page.get_by_role("status").first).to_contain_text("completions")
    page.locator(".completionrow a").first.click()
    expect(page.locator(".completion").first).to_be_visible()
    page.get_by_label("Colour tokens by").select_option("probability")
    expect(page.locator(".token").first).to_be_visible()


def test_a_run_is_deleted_when_asked_twice(here: Watched, served: Served) -> None:
    file = served.client().files.create(file=("t.jsonl", rows(16)), purpose="fine-tune")
    job = served.client().fine_tuning.jobs.create(
        model="tiny", training_file=file.id, extra_body={"method": method(n_epochs=50)}
    )
    served.client().fine_tuning.jobs.cancel(job.id)
    page = here.open(f"/run/{job.id}")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete it with all checkpoints?").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(page.get_by_role("link", name=job.id)).to_have_count(0)


def test_a_grader_is_tried(here: Watched) -> None:
    page = here.open("/grader")
    page.get_by_label("Samples").fill('{"completion": "ab12"}\n{"completion": "ok"}')
    page.get_by_role("button", name="Score them").click()
    scores = page.get_by_role("region", name="Scores")
    expect(scores.locator("tbody tr")).to_have_count(2)
    expect(scores.locator("tbody tr").first).to_contain_text("0.5")
    expect(page.locator("dl.facts")).to_contain_text("Variance0.063")
    page.get_by_label("Samples").fill("no json")
    page.get_by_role("button", name="Score them").click()
    expect(page.get_by_role("alert")).to_have_text("Line 1 is no JSON")


@pytest.mark.slow
@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
def test_two_models_answer_side_by_side(here: Watched) -> None:
    """The real engine, streamed; the same model with the same seed says the same."""
    page = here.open("/play")
    page.get_by_label("Prompt").fill("Say something")
    page.get_by_label("Tokens at most").fill("12")
    page.get_by_role("button", name="Ask both").click()
    expect(page.locator(".completion header").last).to_contain_text("parts in", timeout=120_000)
    expect(page.locator(".completion header").first).to_contain_text("parts in", timeout=30_000)
    answers = page.locator(".completion .answer").all_text_contents()
    assert answers[0] == answers[1] != ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier_at_a_server(browser: Browser, served: Served, state: Any, scheme: Any) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is missing: make clients")
    for width in (1280, 390):
        context = browser.new_context(
            storage_state=state, color_scheme=scheme, viewport={"width": width, "height": 844}
        )
        watched = Watched(context, served.url.removesuffix("/v1"))
        for view in SERVED_VIEWS:
            barriers(watched.open(view), view, width)
        assert watched.errors == []
        context.close()


def test_the_pages_are_small() -> None:
    """JavaScript under 150 KB in all, uPlot with its licence."""
    static = ROOT / "grpo" / "console" / "static"
    assert sum(path.stat().st_size for path in static.glob("*.js")) < 150_000
    assert "MIT" in (static / "uplot.LICENSE").read_text()


def test_a_page_that_came_too_early_finds_its_form(browser: Browser, tmp_path: Path) -> None:
    """A run that has not begun is opened; with its first step come its pictures. Evaluations move nothing."""
    log = make(tmp_path / "runs" / "early", 0, ended=False)
    ui = Ui(tmp_path / "runs", tmp_path / "home")
    try:
        page = browser.new_page()
        page.goto(ui.link)
        page.get_by_role("link", name="early").click()
        expect(page.locator("dl.facts")).to_contain_text("0 / 100")
        assert page.locator(".card").count() == 0
        log.metric(record(0, 0.25))
        expect(page.locator(".card")).to_have_count(4)
        first = page.locator(".card").first.element_handle()
        log.metric(record(1, 0.25, heldout_mean=0.5))
        expect(page.locator("dl.facts")).to_contain_text("2 / 100")
        page.wait_for_timeout(700)
        assert first
        assert first.is_visible(), "the page was not made anew"
    finally:
        ui.stop()
