"""``grpo engine``: a rollout engine for trainings that run elsewhere."""

import os
from pathlib import Path
from typing import Annotated

import typer

from grpo.config import load
from grpo.engine import command, environment, installed
from grpo.engine_choice import compute_dtype, engine_options, sync_strategy
from grpo.errors import SetupError


def engine(
    config: Annotated[Path, typer.Argument(help="The configuration of the training it will sample for.")],
    port: Annotated[int, typer.Option(help="To listen on.", min=1, max=65535)] = 8100,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override one setting.")] = None,
) -> None:
    """Start vLLM so that a training with `rollout.engines` may use it. It listens on the loopback address only."""
    settings = load(config, overrides)
    if not installed():
        raise SetupError("vLLM is not installed. `grpo doctor` says how to install it")
    import torch

    from grpo.shapes import adapted_names

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(settings, device.type)
    strategy = sync_strategy(settings, dtype, device.type)
    targets = adapted_names(settings.model.path, settings.lora)
    options = engine_options(settings, dtype, device.type, strategy, targets)
    words = command(options, {"--host": "127.0.0.1", "--port": port})
    print(f"engine for {settings.model.path} on http://127.0.0.1:{port}, sync {strategy}", flush=True)
    os.execve(words[0], words, environment(options) | {"VLLM_LOGGING_LEVEL": "INFO"})
