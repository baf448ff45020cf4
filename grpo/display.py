"""What a person sees while a run goes on. A terminal gets a live bar; a pipe gets a line per step, dots in between."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from grpo.convergence import Look, Verdict
from grpo.outlook import Outlook
from grpo.sections import Convergence

PULSE_SECONDS = 2.0
"""A pipe gets a dot this often while nothing else is printed."""
LIBRARIES = "loading torch, transformers and PEFT"


class Display:
    """Progress on one console; ``quiet`` (other ranks, tests) prints nothing."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = Console(quiet=True, emoji=False) if quiet else console or Console(soft_wrap=True, emoji=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._dots = False
        self._turn = threading.Lock()
        """A line and a dot never mix."""

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """A spinner with the elapsed time while something slow happens; in a pipe a line before and after."""
        started = time.monotonic()
        if self.console.is_terminal and self._progress is None:
            columns = (TextColumn("[cyan]{task.description}"), BarColumn(20), TimeElapsedColumn())
            with Progress(*columns, console=self.console, transient=True) as spinner:
                spinner.add_task(escape(text), total=None)
                yield
        else:
            self._line(f"{escape(text)} ...")
            with self._pulse():
                yield
        self._line(f"{escape(text)}: {time.monotonic() - started:.1f} s", style="dim")

    @contextmanager
    def training(self, done: int, budget: int) -> Iterator[None]:
        """The bar under which steps are reported."""
        if not self.console.is_terminal:
            with self._pulse():
                yield
            return
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as self._progress:
            self._task = self._progress.add_task("sampling", total=budget, completed=done)
            yield
        self._progress = self._task = None

    @contextmanager
    def _pulse(self) -> Iterator[None]:
        """Dots from a thread of its own: the main one is busy computing or waiting."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(PULSE_SECONDS):
                with self._turn:
                    self._dots = True
                    self.console.print(".", end="")
                    self.console.file.flush()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def phase(self, text: str) -> None:
        """What the current step is doing; terminals only."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, description=text)

    def step(self, record: dict[str, Any], verdict: Verdict, budget: int) -> None:
        """One finished step."""
        left = (budget - record["step"] - 1) * record["seconds"]
        heldout = f"  held-out {record['heldout_mean']:.3f}" if "heldout_mean" in record else ""
        self._line(
            f"step {record['step'] + 1:4d}  reward [bold]{record['critic_rewards_mean']:.3f}[/bold]"
            f" ± {record['reward_half_width']:.3f}  {record['tokens_per_second']:5.0f} tok/s"
            f"  gap {record['sampler_gap_mean']:.0e}  zero-variance {record['zero_variance_share']:3.0%}"
            f"  {record['seconds']:4.1f} s  at most {left / 60:.0f} min left{heldout}  {escape(verdict.status)}"
        )
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=record["step"] + 1, description=escape(verdict.reason))

    def look(self, look: Look, outlook: Outlook, rule: Convergence) -> None:
        """One look of the stop rule, with its numbers."""
        bound = "not yet known" if look.bound is None else f"at most {look.bound:.3f} by the last {look.window} steps"
        text = f"      gain over the next {rule.horizon} steps {bound}; alpha spent {look.alpha_spent:.3f}"
        if outlook.stop_steps and outlook.stop_rewards and not look.flat:
            (first, middle, last), (low, level, high) = outlook.stop_steps, outlook.stop_rewards
            text += (
                f"; forecast: flat by step {middle} ({first} to {last}), reward {level:.2f} ({low:.2f} to {high:.2f})"
            )
        self._line(text, style="dim")

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._line(escape(text), style="yellow")

    def _line(self, text: str, style: str | None = None) -> None:
        """A line of its own, also after dots."""
        with self._turn:
            if self._dots:
                self._dots = False
                self.console.print()
            self.console.print(text, style=style, highlight=False)


def loading() -> AbstractContextManager[None]:
    """Something to see on standard error while a command loads the libraries that take seconds."""
    return Display(Console(stderr=True, soft_wrap=True, emoji=False)).status(LIBRARIES)
