"""Where else the metrics go. metrics.jsonl is the truth; a sink is a copy for a tool people like. Touches: disk.

To add one: a class with these two methods, and a line in ``open_sinks``. A tool that reads files needs none:
metrics.jsonl grows by a line a step.
"""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from grpo.config import Config
from grpo.runlog import RunLog


class Sink(Protocol):
    """Gets every step's line of metrics.jsonl, in order, after it is durable."""

    def step(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files for ``tensorboard --logdir``, written anew at each start: a repeated step is there once."""

    def __init__(self, directory: Path, past: Iterable[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second of imports

        shutil.rmtree(directory, ignore_errors=True)
        self._writer = SummaryWriter(str(directory))
        for record in past:
            self.step(record)

    def step(self, record: dict[str, Any]) -> None:
        for name, value in numbers(record):
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def numbers(record: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    """(name, value) of all that can be drawn; tables inside a record by name/inner name."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)


def open_sinks(config: Config, log: RunLog) -> list[Sink]:
    """Those the configuration asks for. What the run did before is in the log."""
    return [TensorBoard(log.directory / "tensorboard", log.metrics())] if config.run.tensorboard else []
