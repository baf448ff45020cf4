"""The console with a run of 100,000 steps and a million completions, in a real browser: how long its users wait.

    .venv/bin/python benchmarks/console/run.py [--steps 100000] [--out benchmarks/console/result.json]

The run is made: a group of ten completions a step, forty words each, with the project's own record forms. Times are of
requests over a real socket, one at a time, and of Chromium's own paint timing.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from made_run import CONFIG, group, record  # noqa: E402
from test_console import Ui  # noqa: E402

GROUP, WORDS, REQUESTS, LOADS = 10, 40, 300, 7
RUN = "/console/api/runs/large"
DRAWN = {"/": "tbody tr", "/run/large": ".u-over", "/run/large/completions": ".completionrow a"}
"""What is there once a page has what it asked for: a row, the curve, a completion."""
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"least": 0.75},
    {"first": 40_000, "last": 60_000},
    {"prompt": 17},
    {"text": "zebra"},
    {"order": "best"},
    {"order": "worst", "least": 0.5},
)


def make(directory: Path, steps: int) -> None:
    """Written at once: nothing here must survive a crash."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    (directory / "rollouts").mkdir(parents=True)
    (directory / "lock").write_text(f"{os.getpid()}\n")
    (directory / "config.json").write_text(json.dumps({"digest": "made", "config": CONFIG | {"run": {"steps": steps}}}))
    with (directory / "metrics.jsonl").open("w") as metrics, (directory / "events.jsonl").open("w") as events:
        for step in track(range(steps), "making the run", console=Console(stderr=True)):
            told = [" ".join(draw.choices(words, k=WORDS)) for _ in range(GROUP)]
            if step % 1000 == 0:
                told[0] += " zebra"
            one = group(step % 500, told, [round(draw.random(), 3) for _ in range(GROUP)])
            path = directory / "rollouts" / f"step_{step:06d}.jsonl"
            path.write_text(json.dumps(asdict(one)) + "\n")
            more = {f"metric_{k}": draw.random() for k in range(30)}
            metrics.write(json.dumps(record(step, draw.random(), **more)) + "\n")
            if step % 10 == 9:
                look = {"event": "look", "time": float(step), "step": step + 1, "bound": draw.random(), "window": 20}
                events.write(json.dumps(look | {"alpha_spent": 0.01}) + "\n")


def timed(client: httpx.Client, path: str, **asked: Any) -> float:
    """Seconds of one request."""
    began = time.perf_counter()
    answer = client.get(path, params=asked)
    answer.raise_for_status()
    return time.perf_counter() - began


def spread(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(1000 * s for s in seconds)
    at = lambda share: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)  # noqa: E731
    return {"median_ms": round(statistics.median(ordered), 1), "p95_ms": at(0.95), "most_ms": at(1.0)}


def indexed(client: httpx.Client) -> dict[str, float]:
    """Ask for the first page, as the page does, until all steps are in."""
    began, waits = time.perf_counter(), []
    while True:
        asked = time.perf_counter()
        found = client.get(f"{RUN}/completions", params={"limit": 60}).json()
        waits.append(time.perf_counter() - asked)
        if found["indexed"] == found["steps"]:
            return {"seconds": round(time.perf_counter() - began, 1), "requests": len(waits)} | spread(waits)


def listed(client: httpx.Client, draw: random.Random) -> dict[str, Any]:
    """Random places under each filter; the first request of a filter looks at all rows, and is told apart."""
    firsts, rest, totals = [], [], []
    for wanted in FILTERS:
        firsts.append(timed(client, f"{RUN}/completions", limit=60, **wanted))
        totals.append(client.get(f"{RUN}/completions", params={"limit": 1, **wanted}).json()["total"])
    for _ in range(REQUESTS):
        k = draw.randrange(len(FILTERS))
        offset = draw.randrange(max(1, totals[k]))
        rest.append(timed(client, f"{RUN}/completions", limit=60, offset=offset, **FILTERS[k]))
    names = [json.dumps(wanted) for wanted in FILTERS]
    return {
        "pages": spread(rest),
        "first_of_a_filter_ms": {n: round(1000 * s, 1) for n, s in zip(names, firsts, strict=True)},
        "rows": dict(zip(names, totals, strict=True)),
    }


def painted(browser: Browser, ui: Ui, state: Any, view: str) -> dict[str, float]:
    """Milliseconds from navigation to the first paint with content, to the heading, and to the drawn curve."""
    context = browser.new_context(storage_state=state, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(f"{ui.url}/#{view}")
    page.wait_for_selector("h1")
    heading = time.perf_counter() - began
    page.wait_for_selector(DRAWN[view])
    drawn = time.perf_counter() - began
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return {"paint": paint, "heading": 1000 * heading, "drawn": 1000 * drawn}


def seen(browser: Browser, ui: Ui, state: Any, view: str) -> dict[str, Any]:
    """The first load after the server's start, and the median of those that follow."""
    loads = [painted(browser, ui, state, view) for _ in range(1 + LOADS)]
    median = {name: round(statistics.median(load[name] for load in loads[1:])) for name in loads[0]}
    most = {name: round(max(load[name] for load in loads[1:])) for name in loads[0]}
    return {"first": {name: round(value) for name, value in loads[0].items()}, "median": median, "most": most}


def measure(folder: Path, steps: int) -> dict[str, Any]:
    """Everything, on fresh servers."""
    result: dict[str, Any] = {"steps": steps, "completions": steps * GROUP}
    ui = Ui(folder / "runs", folder / "home")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page()
        page.goto(ui.link)
        page.wait_for_selector("h1")
        state = page.context.storage_state()
        result["pages_ms"] = {view: seen(browser, ui, state, view) for view in ("/", "/run/large")}
        client = httpx.Client(base_url=ui.url, cookies={c["name"]: c["value"] for c in state["cookies"]}, timeout=120)
        result["index"] = indexed(client)
        result["list"] = listed(client, random.Random(1))
        result["pages_ms"]["/run/large/completions"] = seen(browser, ui, state, "/run/large/completions")
        result["requests"] = {
            name: spread([timed(client, path, **asked) for _ in range(20)]) for name, (path, asked) in OTHERS.items()
        }
        browser.close()
    ui.stop()
    return result


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "runs": ("/console/api/runs", {}),
    "one run": (RUN, {}),
    "a curve": (f"{RUN}/series", {"name": ["critic_rewards_mean", "reward_half_width"], "points": 800}),
    "fourteen curves": (f"{RUN}/series", {"name": [f"metric_{k}" for k in range(14)], "points": 200}),
    "a step": (f"{RUN}/steps/77777", {}),
    "a prompt": (f"{RUN}/prompts/17", {}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "console" / "result.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="console-") as place:
        make(Path(place) / "runs" / "large", arguments.steps)
        result = measure(Path(place), arguments.steps) | {"machine": machine()}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


def machine() -> str:
    """Where it was measured."""
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().split("\n") if x.startswith("model name")),
        "?",
    )
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
