"""``grpo ui``, ``grpo report``: runs for the eye."""

from pathlib import Path
from typing import Annotated

import typer

from grpo.errors import ConfigError


def ui(
    places: Annotated[list[Path], typer.Argument(help="Run directories, or directories of runs.")],
    port: Annotated[int, typer.Option(help="0: one that is free.")] = 8322,
) -> None:
    """Look at runs in a browser, while they go on or after: curves, every completion, search."""
    from platformdirs import user_data_path

    from grpo.console import server
    from grpo.console.sources import Directories

    for place in places:
        if not place.is_dir():
            raise ConfigError(f"{place}: no such directory")
    source = Directories(places)
    if not source.runs():
        raise ConfigError(f"{', '.join(map(str, places))}: no run there (no config.json). Name a run's directory")

    def tell(link: str) -> None:
        print(
            f"open  {link}\nThe link logs one browser in, within a quarter of an hour. Ctrl-C ends the server.",
            flush=True,
        )

    server.serve(source, user_data_path("grpo") / "console", port, tell)


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
