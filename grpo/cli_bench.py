"""``grpo bench``: protocols that anybody with the hardware can repeat, beside what was published of them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from grpo.errors import FAILS_AGAIN

if TYPE_CHECKING:
    from grpo.bench.protocol import Protocol
    from grpo.bench.runs import PlannedRun

bench = typer.Typer(no_args_is_help=True, help="Benchmarks against published results.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@bench.command()
def protocols(as_json: AsJson = False) -> None:
    """The protocols in configs/bench."""
    from grpo.bench import protocol as protocols

    found = [(path.stem, protocols.load(path)) for path in sorted(protocols.FOLDER.glob("*.toml"))]
    if as_json:
        rows = {name: {"title": p.title, "needs": p.needs, "runs": len(p.variants) * len(p.seeds)} for name, p in found}
        print(json.dumps(rows))
        return
    table = Table()
    for column in ("protocol", "what", "needs", "runs"):
        table.add_column(column, overflow="fold")
    for name, one in found:
        needs = "a CPU" if one.needs == "cpu" else "a GPU"
        table.add_row(name, escape(one.title), needs, str(len(one.variants) * len(one.seeds)))
    Console(emoji=False).print(table)


@bench.command()
def bedrock(
    protocol: Annotated[str, typer.Argument(help="A name of `grpo bench protocols`, or a protocol's file.")],
    out: Annotated[Path | None, typer.Option(help="Default: runs/bench/NAME.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Only this seed; repeat it.")] = None,
    variants: Annotated[list[str] | None, typer.Option("--variant", help="Only this variant; repeat it.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a setting of every run.")] = None,
    ranks: Annotated[int, typer.Option(help="Trainer processes of each run, by accelerate.", min=1)] = 1,
    report_only: Annotated[bool, typer.Option("--report-only", help="Train nothing.")] = False,
    hour_price: Annotated[float, typer.Option(help="Of an hour of training, for the cost.", min=0)] = 0.0,
    token_price: Annotated[float, typer.Option(help="Of a million sampled tokens, for the cost.", min=0)] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Run a protocol, or go on with it, and report: report.html, report.json, report.png. Finished runs are kept."""
    from grpo.bench import measured, report
    from grpo.bench import protocol as protocols
    from grpo.bench.compare import Prices
    from grpo.bench.runs import plan_runs, seeds_there

    path = protocols.path_of(protocol)
    chosen = protocols.load(path)
    published = protocols.load_published(chosen)
    out = out or Path("runs") / "bench" / path.stem
    planned = plan_runs(chosen, out, seeds=seeds or (), variants=variants or (), overrides=overrides or ())
    done = report_only or _train(planned, chosen, ranks)
    with Console(emoji=False, stderr=True).status("scoring and drawing"):
        every = plan_runs(chosen, out, seeds=seeds_there(chosen, out), overrides=overrides or ())
        runs = [measured.measure(run, chosen.measures) for run in every]
        content = report.save_report(chosen, published, runs, Prices(hour=hour_price, million_tokens=token_price), out)
    if as_json:
        print(json.dumps(content))
    else:
        _show(content, out)
    raise typer.Exit(int(not done))


def _train(runs: "list[PlannedRun]", protocol: "Protocol", ranks: int) -> bool:
    """Whether all were concluded; the first that is not ends it, for its cause is most likely that of the rest, too."""
    from grpo.bench.runs import check, execute

    left = [run for run in runs if not run.finished]
    check(protocol, left)
    for number, run in enumerate(left, 1):
        print(f"== {run.name}: {number} of {len(left)} to run", file=sys.stderr, flush=True)
        if code := execute(run, protocol, ranks):
            advice = "mend what is said above" if code == FAILS_AGAIN else "the same command goes on from its last step"
            print(f"{run.name} did not finish: {advice}", file=sys.stderr)
            return False
    return True


def _show(content: dict[str, Any], out: Path) -> None:
    """The runs in a table, and where the rest is."""
    from grpo.bench.report import spread

    table = Table(title=escape(f"{content['title']}: {content['state']}"))
    for column in ("variant", "seed", "ended by", "steps", "seconds", "base, test", "tuned, test"):
        table.add_column(column, overflow="fold")
    for run in content["runs"]:
        score = run["scores"].get("reward", {"base": None, "tuned": None})
        cells = [run["variant"], run["seed"], run["status"], run["steps"], run["seconds"] or "-"]
        table.add_row(*(escape(str(cell)) for cell in cells), spread(score["base"]), spread(score["tuned"]))
    console = Console(emoji=False)
    console.print(table)
    console.print(f"report {out / 'report.html'}", highlight=False, soft_wrap=True)
