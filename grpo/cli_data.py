"""``grpo check-data``, ``import-data`` and ``grader``: are this file and this grader fit to train with?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from grpo.config import load
from grpo.errors import ConfigError, printable
from grpo.offline import go_online

if TYPE_CHECKING:
    from grpo.rehearsal import Rehearsal
    from grpo.survey import Survey
    from grpo.types import Group

grader = typer.Typer(no_args_is_help=True, help="Reward functions, before any training.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
MOST_SHOWN = 20
LONGEST_SHOWN = 160


def check_data(
    file: Annotated[Path, typer.Argument(help="Prompts, JSON lines.")],
    model: Annotated[Path | None, typer.Option(help="Count tokens as this model does.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="Prompts that must not be in FILE, too.")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Longer prompts are problems.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every problem of a prompt file, by line and field; lengths, duplicates, overlap. Exit code 1 where one is."""
    from grpo.survey import survey

    if max_prompt_tokens and not model:
        raise ConfigError("--max-prompt-tokens counts tokens: name the model with --model")
    tokenizer = _tokenizer(model) if model else None
    console = Console(emoji=False)
    with console.status("reading") if not as_json else Console(quiet=True, emoji=False).status(""):
        held, hashes = survey(heldout, tokenizer, max_prompt_tokens, set()) if heldout else (None, set())
        result, _ = survey(file, tokenizer, max_prompt_tokens, hashes)
    bad = bool(result.problems or result.overlap or not result.rows or (held and held.problems))
    if as_json:
        print(json.dumps({"train": asdict(result), "heldout": asdict(held) if held else None}))
    else:
        _show_survey(console, str(file), result)
        if held:
            _show_survey(console, str(heldout), held)
    raise typer.Exit(int(bad))


def import_data(
    source: Annotated[str, typer.Argument(help="A dataset of the Hub, a directory, or a file: jsonl, parquet, csv.")],
    out: Annotated[Path, typer.Argument(help="The prompt file to write.")],
    prompt: Annotated[str | None, typer.Option(help="Column with the user's message.")] = None,
    messages: Annotated[str | None, typer.Option(help="Column with whole conversations, instead of --prompt.")] = None,
    reference: Annotated[str | None, typer.Option(help="Column that becomes reference_answer.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Column handed to the reward function; repeat it.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message put before every prompt.")] = None,
    name: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    split: Annotated[str, typer.Option(help="train, test, ...")] = "train",
    skip: Annotated[int, typer.Option(help="Leave out so many rows at the start.", min=0)] = 0,
    rows: Annotated[int | None, typer.Option(help="The most rows to write.", min=1)] = None,
) -> None:
    """Write a prompt file from a dataset. The only command that may reach the Hub; a training never does."""
    go_online()
    from rich.progress import track

    from grpo import conversion

    columns = conversion.Columns(
        prompt=prompt, messages=messages, reference=reference, keep=tuple(keep or ()), system=system
    )
    console = Console(emoji=False, stderr=True)
    with console.status(f"opening {source}"):
        examples = conversion.open_source(source, name, split)
    lines = conversion.rows(examples, columns, skip, rows)
    count = conversion.write(track(lines, description="rows", total=rows, console=console), out)
    print(f"{out}: {count} rows")


def _tokenizer(model: Path) -> Any:
    from grpo.policy import load_tokenizer

    return load_tokenizer(model)


def _show_survey(console: Console, name: str, found: "Survey") -> None:
    lengths = ", ".join(f"{label} {value}" for label, value in found.lengths.items())
    fields = ", ".join(f"{name} ({count})" for name, count in found.fields.items()) or "none"
    lines = [
        f"{name}: {found.rows} usable rows, {len(found.problems)} unusable",
        f"  {found.unit} of a prompt: {lengths or 'none'}",
        f"  without reference_answer: {found.without_reference}; other fields: {fields}",
        f"  duplicates: {len(found.duplicates)}"
        + (f", first: line {found.duplicates[0][0]} repeats line {found.duplicates[0][1]}" if found.duplicates else ""),
    ]
    if found.overlap:
        shown = ", ".join(map(str, found.overlap[:MOST_SHOWN]))
        lines.append(f"  {len(found.overlap)} rows are held out, too: lines {shown}")
    lines += [f"  {problem}" for problem in found.problems]
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


@grader.command("test")
def rehearse(
    config: Annotated[Path, typer.Argument(help="The configuration of the run to come.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override one setting.")] = None,
    prompts: Annotated[int, typer.Option(help="Of the training file, drawn by the run's seed.", min=1)] = 32,
    show: Annotated[int, typer.Option(help="Completions to show, best and worst.", min=0)] = 4,
    as_json: AsJson = False,
) -> None:
    """Sample the base model, score it, and say whether GRPO can learn from this. Ends with 1 where it cannot."""
    settings = load(config, overrides)
    from grpo.display import Display
    from grpo.standalone import rehearse_run

    display = Display(quiet=as_json)
    result, groups = rehearse_run(settings, prompts, display)
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        _show_rehearsal(display.console, result, groups, show)
    raise typer.Exit(int(not result.can_learn))


def _show_rehearsal(console: Console, found: "Rehearsal", groups: "list[Group]", show: int) -> None:
    table = Table(title=f"{found.completions} completions of {found.prompts} prompts by the base model", min_width=60)
    table.add_column("what")
    table.add_column("found", justify="right")
    mean = "none" if found.mean is None else f"{found.mean:.3f}"
    ends = "none" if found.lowest is None else f"{found.lowest:g} to {found.highest:g}"
    rows = [("mean reward", mean), ("rewards", ends), ("groups with equal rewards", f"{found.zero_variance_share:.0%}")]
    rows += [
        ("groups with a signal in a step", f"{found.useful_groups:.1f}"),
        ("not scored", f"{found.error_share:.0%}"),
    ]
    rows += [("cut at the limit", f"{found.truncated_share:.0%}"), ("tokens of a completion", f"{found.tokens:.0f}")]
    rows += [("scoring one completion", f"{1000 * found.seconds:.1f} ms")]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for completion, reward in _extremes(groups, show):
        text = " ".join(printable(completion).split())[:LONGEST_SHOWN]
        console.print(f"{reward:>8}  {text}", markup=False, highlight=False)
    verdict = "GRPO can learn from this" if found.can_learn else "GRPO cannot learn from this"
    console.print(verdict, style="green" if found.can_learn else "red")
    for finding in found.findings:
        console.print(f"  {finding.cause}: {finding.advice}", markup=False, highlight=False, soft_wrap=True)


def _extremes(groups: "list[Group]", show: int) -> list[tuple[str, str]]:
    """Text and reward of the best, the worst and what failed."""
    pairs = [pair for group in groups for pair in zip(group.completions, group.rewards, strict=True)]
    scored = sorted((p for p in pairs if p[1].value is not None), key=lambda p: -(p[1].value or 0.0))
    chosen = scored if len(scored) <= show else [*scored[: (show + 1) // 2], *scored[len(scored) - show // 2 :]]
    failed = [p for p in pairs if p[1].value is None][:1]
    shown = [(c.text, f"{r.value:g}") for c, r in chosen]
    return shown + [(f"{r.error}", "failed") for _, r in failed]
