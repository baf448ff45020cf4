"""``grpo ui``, ``grpo report``, ``grpo watch``: runs for the eye."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grpo.errors import ConfigError, printable
from grpo.server.cli_jobs import DataDir, find_job, open_data

if TYPE_CHECKING:
    from rich.console import Console

    from grpo.console.run_view import RunView

POLL_S, PULSE_S = 0.5, 2.0
Summary = Callable[[], dict[str, Any]]
"""Of a run as it is, with its ``name`` and whether it has ``ended``."""


def ui(
    places: Annotated[list[Path], typer.Argument(help="Run directories, or directories of runs.")],
    port: Annotated[int, typer.Option(help="0: one that is free.")] = 8322,
) -> None:
    """Look at runs in a browser, while they go on or after: curves, every completion, search."""
    from platformdirs import user_cache_path, user_data_path

    from grpo.console import server
    from grpo.console.sources import Directories

    for place in places:
        if not place.is_dir():
            raise ConfigError(f"{place}: no such directory")
    source = Directories(places, user_cache_path("grpo") / "runs")
    if not source.runs():
        raise ConfigError(f"{', '.join(map(str, places))}: no run there (no config.json). Name a run's directory")

    def tell(link: str) -> None:
        print(
            f"open  {link}\nThe link logs one browser in, within a quarter of an hour. Ctrl-C ends the server.",
            flush=True,
        )

    server.serve(source, user_data_path("grpo") / "ui", port, tell)


def report(
    run: Annotated[Path, typer.Argument(help="The directory of a run.")],
    out: Annotated[Path | None, typer.Option(help="Default: report.html in the run's directory.")] = None,
) -> None:
    """One HTML file about a run, to send to somebody: verdict, curve, numbers, best and worst completions."""
    from grpo.report import save_report

    target = out or run / "report.html"
    if not (run / "config.json").is_file():
        raise ConfigError(f"{run}: no run there (no config.json)")
    save_report(run, target)
    print(target)


def watch(
    target: Annotated[str, typer.Argument(help="A run's directory, or a job's id or its beginning.")],
    data_dir: DataDir = None,
) -> None:
    """A run until it ends: bar, curve, numbers, alarms, the best and the worst completion of the last step."""
    from rich.console import Console

    summary, view = _watched(target, data_dir)
    console = Console(emoji=False)
    (_live if console.is_terminal else _lines)(console, summary, view)


def _live(console: "Console", summary: Summary, view: "RunView") -> None:
    """On a terminal: one picture, drawn anew with every step."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from grpo.console import terminal

    known, since, picture = None, time.monotonic(), Group()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            now = summary()
            if (now["steps"], now["status"]) != known:
                known, since = (now["steps"], now["status"]), time.monotonic()
                groups = (view.step(now["steps"] - 1) or {"groups": []})["groups"]
                ends = terminal.best_and_worst(groups)
                picture = terminal.story(view.details() | now, view.rewards(), view.last(), ends, console.width)
            waited = f"{time.monotonic() - since:.0f} s since then; Ctrl-C ends the watching, not the run"
            live.update(picture if now["ended"] else Group(picture, Text(waited, style="dim")), refresh=True)
            if now["ended"]:
                return
            time.sleep(POLL_S)


def _lines(console: "Console", summary: Summary, view: "RunView") -> None:
    """In a pipe: a line a step and a line for every other state, dots in between."""
    from grpo.console import terminal

    known, quiet = None, 0.0
    while True:
        now = summary()
        if (now["steps"], now["status"]) != known:
            known, said = (
                (now["steps"], now["status"]),
                terminal.line(now, view.last()) if now["steps"] else now["status"],
            )
            print(("\n" if quiet >= PULSE_S else "") + printable(said), flush=True)
            quiet = 0.0
        if now["ended"]:
            print(printable(f"{now['status']}: {now['reason'] or 'ended'}"))
            return
        time.sleep(POLL_S)
        quiet += POLL_S
        if quiet % PULSE_S == 0:
            print(".", end="", flush=True)


def _watched(target: str, data_dir: Path | None) -> "tuple[Summary, RunView]":
    """What tells a run's summary, with ``name`` and ``ended``, and its view. Raises ConfigError."""
    from grpo.console.run_view import RunView

    directory = Path(target)
    if (directory / "config.json").is_file():
        view = RunView(directory, directory)

        def watched(told: dict[str, Any]) -> dict[str, Any]:
            return told | {"name": directory.resolve().name, "ended": told["status"] not in ("running", "starting")}

        return (lambda: watched(view.summary())), view
    from grpo.server.console import JobRuns
    from grpo.server.records import TERMINAL

    store, data = open_data(data_dir)
    job, runs = find_job(store, target), JobRuns(store, data)

    def summary() -> dict[str, Any]:
        told = runs.summary(job.id)
        if told is None:
            raise ConfigError(f"job {job.id} was deleted")
        return told | {"ended": told["job"] in TERMINAL}

    found = runs.run(job.id)
    assert found is not None
    return summary, found
