"""The command line: train, eval, chat, plot, doctor. Reads arguments, calls the stages, prints what they return.

Heavy libraries are imported inside the commands: ``grpo --help`` and ``grpo doctor`` answer at once.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from grpo import cli_bench, cli_console, cli_data, cli_engine, cli_plan, engine, offline
from grpo import doctor as diagnosis
from grpo.config import Config
from grpo.config import explain as explain_field
from grpo.config import load as load_config
from grpo.errors import INTERRUPTED, ConfigError, GrpoError, explain
from grpo.headstart import head_start
from grpo.sections import Convergence
from grpo.server import cli as server
from grpo.server import cli_cloud, cli_jobs

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command("check-data")(cli_data.check_data)
app.command("import-data")(cli_data.import_data)
app.command()(cli_plan.plan)
app.command()(cli_plan.quantise)
app.command()(cli_engine.engine)
app.command()(cli_console.ui)
app.command()(cli_console.report)
app.command()(cli_console.watch)
app.command()(server.serve)
app.command()(server.trust)
app.command()(server.console)
app.command()(cli_cloud.promote)
app.command()(cli_cloud.conformance)
app.command()(cli_jobs.events)
app.command()(cli_jobs.completions)
app.add_typer(cli_data.grader, name="grader")
app.add_typer(cli_bench.bench, name="bench")
cli_jobs.jobs.command("watch")(cli_console.watch)
app.add_typer(cli_jobs.jobs, name="jobs")
app.add_typer(server.files, name="files")
app.add_typer(server.functions, name="lambda")

ConfigFile = Annotated[Path, typer.Argument(help="A TOML file; configs/ has complete ones.")]
RunDirectory = Annotated[Path, typer.Argument(help="The directory of a run, for instance runs/demo.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one setting: section.key=value.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command()
def train(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train, or go on with a run that was interrupted: the same command does both."""
    settings = load_config(config, overrides)
    try:
        with head_start(settings) as early:
            from grpo.display import LIBRARIES, Display

            display = Display()
            with display.status(LIBRARIES):
                from grpo import loop
            loop.run(settings, display, early)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        raise typer.Exit(130) from None


@app.command("eval")
def evaluate(
    run: RunDirectory,
    data: Annotated[Path | None, typer.Option(help="A prompt file; default: the run's test prompts.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Score the base model instead of the adapter.")] = False,
    completions: Annotated[int, typer.Option(help="Per prompt.", min=1)] = 8,
    as_json: AsJson = False,
) -> None:
    """Score a finished run's adapter (or its base model) on a prompt file."""
    settings = run_config(run)
    from grpo.display import Display, loading

    with loading():
        from grpo.standalone import score_file
    display = Display(quiet=as_json)
    result = score_file(settings, data, None if base else adapter(run), completions, display)
    if as_json:
        print(json.dumps(result))
    else:
        display.console.print(
            f"mean {result['mean']:.3f}, 95 % interval {result['low']:.3f} to {result['high']:.3f}, "
            f"{result['n']} completions, {result['errors']} not scored",
            highlight=False,
        )


@app.command()
def chat(
    run: RunDirectory,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Ask once and leave.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model instead.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
) -> None:
    """Talk to a finished run's model."""
    settings = run_config(run)
    chosen = None if base else adapter(run)
    from grpo.display import loading

    with loading():
        from grpo.standalone import open_chat
    reply = open_chat(settings, chosen, temperature=temperature, max_tokens=max_tokens)
    if message is not None:
        reply(message)
        return
    print("An empty line ends the conversation.")
    while line := typer.prompt("you", default="", show_default=False, prompt_suffix="> "):
        reply(line)


@app.command()
def export(
    run: RunDirectory,
    out: Annotated[Path, typer.Option(help="A new directory.")],
    merged: Annotated[bool, typer.Option("--merged", help="A whole model instead of the adapter alone.")] = False,
) -> None:
    """A finished run's model for other programs: safetensors and a card that says what it was made from."""
    settings = run_config(run)
    chosen = adapter(run)
    from grpo.display import Display, loading

    with loading():
        from grpo.export import export_adapter, export_merged
    with Display().status("writing the model"):
        (export_merged if merged else export_adapter)(run, settings, chosen, out)
    print(out)


@app.command()
def plot(
    run: RunDirectory, out: Annotated[Path | None, typer.Option(help="Default: curve.png in the run.")] = None
) -> None:
    """Draw a run's reward curve, finished or not."""
    run_config(run)
    from grpo.plot import save_curve

    target = out or run / "curve.png"
    save_curve(run, target)
    print(target)


@app.command()
def converge(
    file: Annotated[Path, typer.Argument(help="A run, metrics.jsonl, trainer_state.json, TensorBoard events, or CSV.")],
    metric: Annotated[str | None, typer.Option(help="The series; default: the format's usual reward.")] = None,
    delta: Annotated[float | None, typer.Option(help="Smallest gain over the horizon worth going on for.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Bound on the chance of stopping too early.")] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps over which the gain counts.")] = None,
    ceiling: Annotated[float | None, typer.Option(help="Highest reward possible.")] = None,
    out: Annotated[Path | None, typer.Option(help="Picture; default: convergence.png beside FILE.")] = None,
    as_json: AsJson = False,
) -> None:
    """Where the stop rule would have ended a finished run, what that gives up, what it saves.

    Settings that are not given are those of the run, or the defaults for a curve from elsewhere.
    """
    from grpo.replay import replay
    from grpo.streams import read_evaluations, read_stream

    points = read_stream(file, metric)
    own = run_config(file) if (file / "config.json").is_file() else None
    evaluations = read_evaluations(file, own.evaluate.every) if own else []
    given = {"delta": delta, "alpha": alpha, "horizon": horizon, "ceiling": ceiling}
    rule = stop_rule(own.convergence if own else Convergence(), given)
    warmup = own.update.warmup_steps if own else 0
    result = replay(points, rule, warmup=warmup, evaluations=evaluations)
    if out or not as_json:
        from grpo.plot import save_replay

        out = out or (file if file.is_dir() else file.parent) / "convergence.png"
        save_replay(points, result, str(file), out)
    if as_json:
        print(json.dumps(result.as_json()))
        return
    print(f"{result.verdict.status}: {result.verdict.reason}")
    if result.stop_step is not None:
        print(f"stop after step {result.stop_step} of {points[-1].step + 1}, {result.saved:.0%} of the steps saved")
        print(f"reward there {result.reward_at_stop:.4f}, at the end {result.final_reward:.4f}")
    print(f"picture {out}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine has, what it lacks, what to do."""
    findings = diagnosis.examine()
    failed = not all(f.ok for f in findings if f.required)
    if as_json:
        print(diagnosis.as_json(findings))
        raise typer.Exit(int(failed))
    table = Table(title=f"device: {diagnosis.device()}, sampler: {engine.installed() or 'transformers'}")
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for f in findings:
        mark = "[green]ok[/]" if f.ok else "[red]missing[/]" if f.required else "[yellow]note[/]"
        table.add_row(mark, f.name, escape(f.found), escape(f.advice))
    Console(emoji=False).print(table)
    raise typer.Exit(int(failed))


def stop_rule(settings: Convergence, given: dict[str, float | None]) -> Convergence:
    """The rule's settings with what the command line says otherwise. Raises ConfigError."""
    overrides = {name: value for name, value in given.items() if value is not None}
    try:
        return Convergence.model_validate(settings.model_dump() | overrides)
    except ValueError as error:
        raise ConfigError(f"--{', --'.join(overrides)}: {error}") from None


def run_config(run: Path) -> Config:
    """The configuration a run was made with. Raises ConfigError."""
    path = run / "config.json"
    try:
        return Config.model_validate(json.loads(path.read_text())["config"])
    except ValidationError as error:
        problems = "\n".join(f"  {explain_field(detail)}" for detail in error.errors())
        raise ConfigError(f"{path}: the run was made with settings this version does not know\n{problems}") from None
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"{run}: not a run directory: {path} is missing or unreadable") from None


def adapter(run: Path) -> Path:
    """The adapter to use: the chosen one of a finished run, else the newest checkpoint. Raises ConfigError."""
    result = run / "result.json"
    if result.is_file():
        chosen = json.loads(result.read_text())["adapter"]
        if chosen:
            return run / "checkpoints" / Path(chosen).name
    complete = sorted(p.parent for p in run.glob("checkpoints/step_??????/manifest.json"))
    if not complete:
        raise ConfigError(f"{run}: no checkpoint yet. Let the run finish a step, or use --base")
    return complete[-1]


def main() -> None:
    """The ``grpo`` command: our own errors end in one message, without a traceback."""
    offline.go_offline()
    try:
        app()
    except (GrpoError, OSError) as error:
        print(explain(error), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
