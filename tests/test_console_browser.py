"""The console in a real browser: every view, hostile text, keyboards and screen readers, a job while it trains."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_text import payloads
from made_run import make, record
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from test_console import Ui

from servers import Served, method, rows

ROOT = Path(__file__).resolve().parent.parent
AXE = ROOT / ".cache" / "clients" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: make system")
VIEWS = ("/", "/run/arithmetic", "/run/arithmetic/step/12", "/run/arithmetic/prompt/9", "/run/arithmetic/search/twelve")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ui, Path]]:
    folder = tmp_path_factory.mktemp("shown")
    make(folder / "runs" / "arithmetic", 12)
    make(folder / "runs" / "going", 4, ended=False)
    make(folder / "runs" / "hostile", 2, texts=payloads())
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
    assert page.locator("tbody tr").count() == 3
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
    page = watched.open("/run/arithmetic")
    page.get_by_label("Search completions").fill("#### 3")
    page.get_by_label("Search completions").press("Enter")
    expect(page.locator("mark").first).to_have_text("#### 3")
    assert page.locator(".completion").count() == 24


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
    page.goto(f"{shown[0].url}/#/run/hostile/search/script")
    expect(page.locator("mark").first).to_be_visible()
    page.wait_for_timeout(500)
    assert hits == []
    assert foreign == []
    context.close()


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
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run()")["violations"]
        serious = [
            (v["id"], [n["html"][:120] for n in v["nodes"]][:3])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == [], view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    assert watched.errors == []
    context.close()


def test_the_keyboard_is_enough(watched: Watched) -> None:
    """To a run by tab and enter alone."""
    page = watched.open("/")
    for _ in range(20):
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


def test_a_job_while_it_trains(browser: Browser, tmp_path: Path, tiny_model: Path) -> None:
    """A real job at a real server: the page counts its steps as they come, and its last completions are there."""
    served = Served(tmp_path / "data", tiny_model)
    try:
        served.deploy(tmp_path)
        client = served.client()
        file = client.files.create(file=("t.jsonl", rows(16)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body={"method": method()})
        link = re.search(r"http://\S+/#login=\S+", served.banner)
        assert link
        page = browser.new_context().new_page()
        page.set_default_timeout(120_000)
        page.goto(link[0])
        page.get_by_role("link", name=job.id).click()
        expect(page.locator("dl.facts")).to_contain_text("4 / 4", timeout=120_000)
        page.goto(f"{link[0].partition('#')[0]}#/run/{job.id}/step/4")
        expect(page.locator(".completion")).to_have_count(4)
    finally:
        served.stop()


def test_the_pages_are_small() -> None:
    """JavaScript under 150 KB in all, uPlot with its licence."""
    static = ROOT / "grpo" / "console" / "static"
    assert sum(path.stat().st_size for path in static.glob("*.js")) < 150_000
    assert "MIT" in (static / "uplot.LICENSE").read_text()
