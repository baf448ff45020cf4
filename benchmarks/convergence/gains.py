"""Can the gain of an update be read off its gradient? Two estimators, with a large evaluation as the truth.

The next step's completions were sampled after the update, so they are independent of what chose it. With A the
leave-one-out advantage of the raw reward and d the change of a completion's log-probability by the update,

    first order   mean of A * d                 = (theta_t - theta_{t-1}) . g_t up to second order
    ratio         mean of A * (1 - exp(-d))     = J(theta_t) - J(theta_{t-1}) in expectation, exactly

against what the stop rule uses, the slope of the step means. Runs must keep every checkpoint (run.keep_every = 1).

.venv/bin/python benchmarks/convergence/gains.py RUN... [--every 10] [--completions 4] [--out FILE]
"""

import argparse
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from grpo import batch
from grpo.checkpoint import Checkpoint, Checkpoints, restore
from grpo.cli import run_config
from grpo.config import Config
from grpo.display import Display
from grpo.engine_choice import compute_dtype
from grpo.episodes import Player
from grpo.evaluate import evaluate
from grpo.linefit import fit
from grpo.policy import Policy
from grpo.prompts import PromptFile
from grpo.rewards import RewardFunction
from grpo.rollout import Sampling
from grpo.runlog import RunLog
from grpo.samplers import load_policy, open_sampler
from grpo.types import Evaluation, Group, Sequence

TRUTH_STREAM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Gains between two checkpoints of one run, each with its standard error."""

    run: str
    learning_rate: float
    first: int
    last: int
    truth: float
    truth_error: float
    slope: float
    slope_error: float
    first_order: float
    first_order_error: float
    ratio: float
    ratio_error: float


def change(policy: Policy, group: Group) -> np.ndarray:
    """(n,) log-probability of each completion under its sampler's policy minus that under ``policy``."""
    rows = [
        Sequence(
            group=0,
            prompt_ids=group.prompt.token_ids,
            completion_ids=c.token_ids,
            sampler_logprobs=c.logprobs,
            advantage=0.0,
            weight=0.0,
        )
        for c in group.completions
    ]
    parts = batch.pack(rows, 8192)
    with torch.no_grad():
        scores = torch.cat([policy.scores(part.to(policy.device)).logprobs.cpu() for part in parts]).double().numpy()
    ends = np.cumsum([len(row.completion_ids) for row in rows])
    earlier = np.array([part.sum() for part in np.split(scores, ends[:-1])])
    return np.array([sum(row.sampler_logprobs) for row in rows]) - earlier


def step_gains(policy: Policy, groups: list[Group]) -> np.ndarray:
    """(groups, 2) first-order and ratio estimates of the last update's gain, one for each prompt."""
    gains = []
    for group in groups:
        rewards = np.array([r.value for r in group.rewards], dtype=np.float64)  # the demo's scoring never fails
        advantages = (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)
        d = change(policy, group)
        gains.append([(advantages * d).mean(), (advantages * (1 - np.exp(-d))).mean()])
    return np.array(gains)


def estimates(run: Path, config: Config, policy: Policy) -> np.ndarray:
    """(T, groups, 2) for all steps after the first."""
    log, checkpoints = RunLog(run), Checkpoints(run)
    steps = len(log.metrics())
    every = []
    for step in track(range(1, steps), str(run)):
        load(policy, checkpoints, step - 1)
        every.append(step_gains(policy, log.load_rollouts(step) or []))
    return np.array(every)


def load(policy: Policy, checkpoints: Checkpoints, step: int) -> None:
    """The policy after ``step`` updates."""
    if step:
        restore(Checkpoint(checkpoints.path(step), step), policy, None)
    else:
        policy.reset_adapter()


def truths(run: Path, config: Config, policy: Policy, at: list[int], completions: int) -> dict[int, Evaluation]:
    """Large evaluations on all training prompts."""
    rows = PromptFile(config.data.train, policy.tokenizer, config.data.max_prompt_tokens)
    sampling = Sampling(
        completions=completions, max_tokens=config.rollout.max_tokens, temperature=config.rollout.temperature
    )
    log, display, found = RunLog(run / "truth"), Display(), {}
    reward = RewardFunction(config.reward, log.directory / "reward.log")
    with open_sampler(config, policy, compute_dtype(config, policy.device.type), log, display) as sampler:
        for step in at:
            load(policy, Checkpoints(run), step)
            sampler.sync(f"truth-{step}")
            with display.status(f"{run}: truth after {step} updates"):
                found[step], _ = evaluate(
                    Player(sampler), reward, rows, sampling, seed=config.run.seed, stream=TRUTH_STREAM, step=0
                )
    reward.close()
    return found


def windows(run: Path, every: int, completions: int) -> list[Window]:
    """All comparisons one run allows."""
    config = run_config(run)
    policy = load_policy(config, torch.device("cpu"), "float32")
    gains = estimates(run, config, policy)
    rewards = np.array([m["critic_rewards_mean"] for m in RunLog(run).metrics()])
    marks = list(range(0, len(gains) + 1, every))
    truth = truths(run, config, policy, marks, completions)
    found = []
    for first, last in itertools.pairwise(marks):
        paired = np.subtract(truth[last].prompt_means, truth[first].prompt_means)
        line = fit(rewards[None, first : last + 1], np.arange(first, last + 1, dtype=np.float64))
        part = gains[first:last]  # the gain of update t is at t - 1
        errors = np.sqrt((part.var(1, ddof=1) / part.shape[1]).sum(0))
        found.append(
            Window(
                run=run.name,
                learning_rate=config.update.learning_rate,
                first=first,
                last=last,
                truth=float(paired.mean()),
                truth_error=float(paired.std(ddof=1) / len(paired) ** 0.5),
                slope=float(line.slope[0] * (last - first)),
                slope_error=float((last - first) * np.sqrt(line.variance[0] / line.time_squared)),
                first_order=float(part.mean(1).sum(0)[0]),
                first_order_error=float(errors[0]),
                ratio=float(part.mean(1).sum(0)[1]),
                ratio_error=float(errors[1]),
            )
        )
    return found


def main() -> None:
    """Compare on every run, write JSON, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--completions", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gains.json")
    arguments = parser.parse_args()
    found: list[Window] = []
    for run in arguments.runs:
        found += windows(run, arguments.every, arguments.completions)
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps([asdict(w) for w in found], indent=1) + "\n")
    print("| learning rate | windows | estimator | mean error | spread of errors | own standard error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for rate in sorted({w.learning_rate for w in found}):
        of_rate = [w for w in found if w.learning_rate == rate]
        for name in ("slope", "first_order", "ratio"):
            off = np.array([getattr(w, name) - w.truth for w in of_rate])
            own = np.sqrt(np.mean([getattr(w, f"{name}_error") ** 2 for w in of_rate]))
            print(f"| {rate:g} | {len(off)} | {name} | {off.mean():+.4f} | {off.std(ddof=1):.4f} | {own:.4f} |")


if __name__ == "__main__":
    main()
