"""``grpo plan``: what goes where on which GPUs, before anything is downloaded."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from grpo.config import Config, load
from grpo.errors import ConfigError

if TYPE_CHECKING:
    from grpo.placement import Gpus, Placement
    from grpo.shapes import Shape


def plan(
    config: Annotated[Path, typer.Argument(help="A TOML file; its model directory needs no more than config.json.")],
    gpus: Annotated[
        str | None, typer.Option(help="For instance 1x24, 1x80, 8x80: count x GiB. Default: found.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override one setting.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Place trainer and engine on GPUs and print the arithmetic. Exit code 1 where nothing fits."""
    settings = load(config, overrides)
    from grpo.display import loading

    with loading():
        from grpo.placement import Refusal, place
        from grpo.shapes import shape_of

    cards = parse(gpus) if gpus else found()
    shape = shape_of(settings.model.path, settings.lora)
    placement = place(settings, shape, cards)
    fits = not isinstance(placement, Refusal)
    if as_json:
        print(json.dumps({"fits": fits, "shape": asdict(shape)} | asdict(placement)))
    elif isinstance(placement, Refusal):
        Console(emoji=False).print(f"does not fit: {placement.reason}", style="red", highlight=False, soft_wrap=True)
    else:
        show(Console(emoji=False), settings, shape, cards, placement)
    raise typer.Exit(int(not fits))


def quantise(
    model: Annotated[Path, typer.Argument(help="Directory of the model, in Hugging Face form.")],
    out: Annotated[Path, typer.Argument(help="Directory to write.")],
    dtype: Annotated[str, typer.Option(help="As model.dtype of the training: bfloat16 or float32.")] = "bfloat16",
) -> None:
    """Round a model's linear layers to NF4 values, for trainings with update.pack_base (QLoRA)."""
    if dtype not in ("bfloat16", "float32"):
        raise ConfigError(f"--dtype {dtype}: bfloat16 or float32")
    with Console(emoji=False).status(f"rounding {model}"):
        from grpo.quantise import quantise

        changed = quantise(model, out, dtype)
    print(f"{out}: linear layers changed by {changed:.1%}; train it with update.pack_base = true")


def parse(text: str) -> "Gpus":
    """``8x80``. Raises ConfigError."""
    from grpo.placement import Gpus

    match = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)", text)
    if not match or not int(match[1]) or not float(match[2]):
        raise ConfigError(f"--gpus {text}: expected COUNTxGIB, for instance 1x24 or 8x80")
    return Gpus(int(match[1]), float(match[2]))


def found() -> "Gpus":
    """This machine's. Raises ConfigError where there is none."""
    import torch

    from grpo.placement import GIB, Gpus

    if not torch.cuda.is_available():
        raise ConfigError("this machine has no GPU: say which are meant, for instance --gpus 1x24")
    memory = min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
    return Gpus(torch.cuda.device_count(), round(memory / GIB, 1))


def show(console: Console, config: Config, shape: "Shape", gpus: "Gpus", placement: "Placement") -> None:
    """The arithmetic, the order of things, and what to set."""
    from grpo.placement import GIB, TRANSIENT, total

    table = Table(title=f"{config.model.path.name} on {gpus.count} x {gpus.gib:g} GiB: GiB on one card", min_width=60)
    table.add_column("part")
    table.add_column("trainer", justify="right")
    table.add_column("engine", justify="right")
    for part in dict.fromkeys([*placement.trainer, *placement.engine]):
        sizes = (placement.trainer.get(part), placement.engine.get(part))
        marked = f"{part} (during an update)" if part in TRANSIENT else part
        table.add_row(marked, *("" if size is None else f"{size / GIB:.2f}" for size in sizes))
    sums = (sum(placement.trainer.values()), sum(placement.engine.values()))
    table.add_row("sum", *(f"{size / GIB:.2f}" for size in sums))
    console.print(table)
    reach = f"{shape.parameters / 1e9:.2f} billion weights, {shape.adapted} adapted modules, {shape.adapter:,} trained"
    lines = [
        reach,
        f"fullest moment {total(placement) / GIB:.1f} of {gpus.room / GIB:.1f} GiB to plan with",
        f"the cache holds {placement.at_once} completions of full length at once",
        "engine and trainer take turns: the engine sleeps during updates, the trainer waits while it samples"
        if placement.sleep
        else "engine and trainer are both in memory; each waits while the other works",
    ]
    for line in [*lines, "", *toml(placement), "", launch(placement)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def toml(placement: "Placement") -> list[str]:
    """Settings that carry the plan out."""
    return [
        "[rollout]",
        f"engine_memory_share = {placement.engine_memory_share}",
        f"tensor_parallel = {placement.tensor_parallel}",
        f"sleep = {str(placement.sleep).lower()}",
        "[update]",
        f"tokens_per_microbatch = {placement.tokens_per_microbatch}",
        f"gradient_checkpointing = {str(placement.gradient_checkpointing).lower()}",
        f"shard_base = {str(placement.shard_base).lower()}",
    ]


def launch(placement: "Placement") -> str:
    """The command that starts the run."""
    if placement.ranks == 1:
        return ".venv/bin/grpo train CONFIG"
    return f".venv/bin/accelerate launch --num_processes {placement.ranks} -m grpo.train CONFIG"
