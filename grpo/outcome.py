"""The end of a run: choose the checkpoint, score the test prompts once, write what came out. Touches: disk."""

import json
import time
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo import selection
from grpo.checkpoint import restore
from grpo.config import Config
from grpo.convergence import Verdict
from grpo.errors import printable
from grpo.evaluate import evaluate
from grpo.manifest import Checkpoint
from grpo.plot import save_curve
from grpo.points import of_record
from grpo.resources import Main, Resources
from grpo.rollout import Sampling
from grpo.runlog import RunLog, write_atomic
from grpo.types import Evaluation, Group

TEST_STREAM = 2
EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What result.json holds."""

    base: dict[str, float] | None
    """mean, low, high, n on the test prompts; None where no test file is configured."""
    tuned: dict[str, float] | None
    verdict: str
    reason: str
    delta: float
    alpha: float
    horizon: int
    steps: int
    seconds: float
    """From the start of the command that finished the run to here, test scoring included."""
    seed: int
    sampler: str
    adapter: str | None
    """Directory of the chosen adapter; None when not a single update was made."""


def finished(config: Config, console: Console) -> Outcome | None:
    """The outcome of a run that was concluded, shown again; None where it was not."""
    path = config.run.dir / "result.json"
    if not path.is_file():
        return None
    outcome = Outcome(**json.loads(path.read_text()))
    log = RunLog(config.run.dir)
    log.claim(config.model_dump(mode="json"), config.digest())
    show(console, config.run.dir, outcome, log.load_evaluation("test_base"), log.load_evaluation("test_tuned"))
    return outcome


def conclude(resources: Resources, verdict: Verdict, started: float) -> Outcome:
    """Report on a finished run that began at ``started`` (monotonic clock). Repeating it gives the same result."""
    assert resources.main is not None
    config, main = resources.config, resources.main
    chosen = choose(resources, main)
    base, before = test(resources, main, None)
    tuned, after = test(resources, main, chosen)
    outcome = Outcome(
        base=_numbers(base),
        tuned=_numbers(tuned),
        verdict=verdict.status,
        reason=verdict.reason,
        delta=config.convergence.delta,
        alpha=config.convergence.alpha,
        horizon=config.convergence.horizon,
        steps=len(main.log.metrics()),
        seconds=round(time.monotonic() - started, 1),
        seed=config.run.seed,
        sampler=main.sampler.name,
        adapter=str(chosen.path) if chosen else None,
    )
    save_curve(config.run.dir, config.run.dir / "curve.png")
    main.log.event("end", verdict=verdict.status, reason=verdict.reason)
    write_atomic(config.run.dir / "result.json", json.dumps(asdict(outcome), indent=1) + "\n")
    show(resources.display.console, config.run.dir, outcome, before, after)
    return outcome


def choose(resources: Resources, main: Main) -> Checkpoint | None:
    """The checkpoint with the best lower bound on the reward; None before any update."""
    at_hand = {checkpoint.step: checkpoint for checkpoint in resources.checkpoints.list()}
    points = [of_record(record) for record in main.log.metrics()]
    step = selection.choose(at_hand, points, main.log.evaluations())
    return at_hand[step] if step is not None else None


def test(resources: Resources, main: Main, checkpoint: Checkpoint | None) -> tuple[Evaluation | None, list[Group]]:
    """Score the test prompts with a checkpoint, or with the base model."""
    config = resources.config
    if not resources.splits.test:
        return None, []
    if checkpoint:
        restore(checkpoint, resources.policy, None)
    else:
        resources.policy.reset_adapter()
    name = f"step {checkpoint.step}" if checkpoint else "the base model"
    with resources.display.status(f"scoring {len(resources.splits.test)} test prompts with {name}"):
        main.sampler.sync(f"test-{checkpoint.step if checkpoint else 'base'}")
        main.proof.check()
        sampling = Sampling(
            completions=config.evaluate.test_completions_per_prompt,
            max_tokens=config.rollout.max_tokens,
            temperature=config.rollout.temperature,
        )
        scored, groups = evaluate(
            main.player,
            main.reward,
            resources.splits.test,
            sampling,
            seed=config.run.seed,
            stream=TEST_STREAM,
            step=checkpoint.step if checkpoint else 0,
        )
    main.log.save_evaluation("test_tuned" if checkpoint else "test_base", groups)
    return scored, groups


def show(console: Console, directory: Path, outcome: Outcome, before: Seq[Group], after: Seq[Group]) -> None:
    """The closing screen: verdict, table, examples, where things are, how to go on."""
    console.print(f"\n[bold]{outcome.verdict}[/bold] after {outcome.steps} steps: {outcome.reason}\n", highlight=False)
    if outcome.base and outcome.tuned:
        console.print(result_table(outcome.base, outcome.tuned))
        console.print(example_table(before[:EXAMPLES], after[:EXAMPLES]))
    console.print(f"reward curve   {directory / 'curve.png'}", highlight=False)
    console.print(f"all results    {directory / 'result.json'}", highlight=False)
    if outcome.adapter:
        console.print(f"adapter        {outcome.adapter}", highlight=False)
        console.print(f"talk to it     .venv/bin/grpo chat {directory}", highlight=False)


def result_table(base: dict[str, float], tuned: dict[str, float]) -> Table:
    """Base against tuned with their intervals."""
    table = Table(title="Mean test reward")
    for column in ("model", "mean", "95 % interval", "completions"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, row in (("base", base), ("tuned", tuned)):
        table.add_row(name, f"{row['mean']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", f"{row['n']:.0f}")
    return table


def example_table(before: Seq[Group], after: Seq[Group]) -> Table:
    """The same prompts before and after, the first completion of each."""
    table = Table(title="Before and after", show_lines=True)
    for column in ("prompt", "base", "tuned"):
        table.add_column(column)
    for old, new in zip(before, after, strict=True):
        cells = [str(old.prompt.messages[-1]["content"]), _example(old), _example(new)]
        table.add_row(*(_plain(cell) for cell in cells))
    return table


def _example(group: Group) -> str:
    reward = group.rewards[0].value
    score = "not scored" if reward is None else f"{reward:g}"
    return f"{group.completions[0].text.strip()}\n(reward {score})"


def _plain(text: str) -> Text:
    """Untrusted text: as it is, not as rich's markup."""
    return Text(printable(text[:400]))


def _numbers(evaluation: Evaluation | None) -> dict[str, float] | None:
    if evaluation is None:
        return None
    return {"mean": evaluation.mean, "low": evaluation.low, "high": evaluation.high, "n": evaluation.n}
