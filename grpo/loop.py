"""The training loop: prompts, rollout, rewards, advantages, update, sync, evaluation, convergence, checkpoint.

A run starts by resuming, step 0 being a resume from nothing. Everything random is a pure function of the seed and the
step, so a step that is repeated after a crash is the same step.

Left out on purpose: a value network, a reward model, a replay buffer, an exploration bonus.
"""

import time
from collections.abc import Sequence as Seq
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from grpo import advantages, prompts, selection
from grpo.checkpoint import history, restore
from grpo.config import Config
from grpo.convergence import Verdict, judge
from grpo.display import Display
from grpo.errors import CheckpointError, RewardError
from grpo.evaluate import evaluate
from grpo.metrics import count_tokens, describe, describe_heldout, describe_sync
from grpo.outcome import Outcome, conclude, finished
from grpo.outlook import forecast_of, resolution
from grpo.points import Point, of_record
from grpo.resources import Main, Resources, open_resources
from grpo.rollout import Delivery, Sampling, collect
from grpo.runlog import RunLog
from grpo.sync import Agreement
from grpo.types import Evaluation, Group

TRAIN_STREAM, HELDOUT_STREAM = 0, 1
UNCHANGED = (Delivery(seconds=0.0, modules=0, survived=None), Agreement(residual=0.0, change=0.0, visible=None))
"""A step without an update has nothing to sync."""


def train(resources: Resources) -> Verdict:
    """Run until the verdict says stop. Every rank calls it."""
    config, display = resources.config, resources.display
    points, verdict = resources.share(resume(resources))
    with display.training(len(points), config.run.steps):
        while not verdict.stop:
            started, step = time.monotonic(), len(points)
            groups = resources.share(rollouts(resources, step))
            sampled = time.monotonic() - started
            display.phase("updating the policy")
            sequences = advantages.assign(groups, config.update.advantage_scale, keep_all=config.update.kl_coef > 0)
            stats = resources.updater.step(sequences, count_tokens(groups), step)
            record = describe(step, groups, stats)
            points.append(of_record(record))
            record |= {"seconds_sampling": sampled, "seconds_update": time.monotonic() - started - sampled}
            verdict = resources.share(close_step(resources, points, record, started))
    return verdict


def verdict_of(points: Seq[Point], evaluations: Seq[Evaluation], config: Config) -> Verdict:
    """The stop rule on the run so far. The evaluation that a stop itself causes is not part of it."""
    regular = [e for e in evaluations if e.step % config.evaluate.every == 0]
    return judge(points, regular, config.convergence, warmup=config.update.warmup_steps, budget=config.run.steps)


def resume(resources: Resources) -> tuple[list[Point], Verdict] | None:
    """Go on from the last complete step: weights, optimizer, history; the sampler gets the weights."""
    config, main = resources.config, resources.main
    newest = resources.checkpoints.newest()
    if newest:
        restore(newest, resources.policy, resources.updater)
    if main is None:
        return None
    done = newest.step if newest else 0
    main.log.rewind(done)
    (config.run.dir / "result.json").unlink(missing_ok=True)
    points = history(newest) if newest else []
    if not len(points) == len(main.log.metrics()) == done:
        raise CheckpointError(f"{main.log.metrics_path} does not have the {done} steps the checkpoint contains")
    main.log.event("resume" if newest else "start", step=done, sampler=main.sampler.name)
    resources.display.note(
        f"resuming after step {done}" if newest else resolution(config, len(resources.splits.heldout))
    )
    deliver(resources, main, done)
    evaluate_heldout(resources, main, done, last=False)
    return points, verdict_of(points, main.log.evaluations(), config)


def rollouts(resources: Resources, step: int) -> list[Group] | None:
    """The step's scored groups, durable before they are used; None on other ranks."""
    main, config = resources.main, resources.config
    if main is None:
        return None
    saved = main.log.load_rollouts(step)
    if saved:
        return saved
    resources.display.phase("sampling")
    chosen = prompts.take(resources.splits.train, step, config.rollout.prompts_per_step, config.run.seed)
    sampling = Sampling(
        completions=config.rollout.completions_per_prompt,
        max_tokens=config.rollout.max_tokens,
        temperature=config.rollout.temperature,
    )
    sampled = collect(main.sampler, chosen, sampling, seed=config.run.seed, stream=TRAIN_STREAM, step=step)
    resources.display.phase("scoring")
    groups = main.reward.score(sampled)
    if not any(group.values for group in groups):
        raise RewardError(f"not one completion of step {step + 1} could be scored, first: {groups[0].rewards[0].error}")
    main.log.save_rollouts(step, groups)
    return groups


def deliver(resources: Resources, main: Main, done: int) -> tuple[Delivery, Agreement]:
    """Bring the weights after ``done`` updates to the sampler and check that they arrived."""
    resources.display.phase("syncing the sampler")
    delivery = main.sampler.sync(f"step-{done}")
    return delivery, main.proof.check()


def evaluate_heldout(resources: Resources, main: Main, done: int, last: bool) -> Evaluation | None:
    """Score the held-out prompts where an evaluation is due: every so many steps and at the end."""
    config = resources.config
    if not resources.splits.heldout or not (last or (done and done % config.evaluate.every == 0)):
        return None
    if any(e.step == done for e in main.log.evaluations()):
        return None
    resources.display.phase("scoring the held-out prompts")
    sampling = Sampling(
        completions=config.evaluate.completions_per_prompt,
        max_tokens=config.rollout.max_tokens,
        temperature=config.rollout.temperature,
    )
    heldout, groups = evaluate(
        main.sampler,
        main.reward,
        resources.splits.heldout,
        sampling,
        seed=config.run.seed,
        stream=HELDOUT_STREAM,
        step=done,
    )
    main.log.save_evaluation(f"heldout_{done:06d}", groups)
    main.log.evaluation(heldout)
    return heldout


def close_step(resources: Resources, points: list[Point], record: dict[str, Any], started: float) -> Verdict | None:
    """Sync, evaluate, judge, and make the step durable; None on other ranks."""
    main = resources.main
    if main is None:
        return None
    done = len(points)
    changed = record["trained_tokens"] > 0
    record |= describe_sync(*(deliver(resources, main, done) if changed else UNCHANGED))
    heldout = evaluate_heldout(resources, main, done, last=False)
    verdict = verdict_of(points, main.log.evaluations(), resources.config)
    heldout = heldout or evaluate_heldout(resources, main, done, last=verdict.stop)
    record |= describe_heldout(heldout) if heldout else {}
    seconds = time.monotonic() - started
    record |= {"status": verdict.status, "seconds": seconds}
    sampled = record["response_length_mean"] * (record["scored_completions"] + record["reward_errors"])
    record["tokens_per_second"] = sampled / seconds
    commit(resources, main, points, record, verdict)
    return verdict


def commit(resources: Resources, main: Main, points: list[Point], record: dict[str, Any], verdict: Verdict) -> None:
    """Make the step durable: its metrics first, then the checkpoint that confirms them."""
    config, done = resources.config, len(points)
    main.log.metric(record)
    resources.display.step(record, verdict, config.run.steps)
    if verdict.look and verdict.look.step == done:
        outlook = forecast_of(points, config)
        main.log.event("look", **asdict(verdict.look), status=verdict.status, reason=verdict.reason, **asdict(outlook))
        resources.display.look(verdict.look, outlook, config.convergence)
    resources.checkpoints.save(done, resources.policy, resources.updater, points)
    resources.checkpoints.prune(worth_keeping(resources, main, points))


def worth_keeping(resources: Resources, main: Main, points: list[Point]) -> set[int]:
    """Checkpoints that may be returned, and those the configuration asks for."""
    config = resources.config.run
    at_hand = [checkpoint.step for checkpoint in resources.checkpoints.list()]
    evaluations = main.log.evaluations()
    wanted = {e.step for e in evaluations[-config.keep_checkpoints :]}
    wanted |= {step for step in at_hand if config.keep_every and step % config.keep_every == 0}
    chosen = selection.choose(at_hand, points, evaluations) if evaluations else None
    return wanted | ({chosen} if chosen is not None else selection.keep(points, at_hand))


def ended(config: Config) -> bool:
    """Whether the run in the directory is over by its own record, if there is one."""
    log = RunLog(config.run.dir)
    points = [of_record(record) for record in log.metrics()]
    return verdict_of(points, log.evaluations(), config).stop


def run(settings: Config, display: Display) -> Outcome | None:
    """Train and conclude: choose the checkpoint, score the test prompts, write result.json; None on other ranks."""
    # The other ranks wait while the main one samples, scores and restarts engines, for as long as that takes.
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])
    if not accelerator.is_main_process:
        display = Display(quiet=True)
    if ended(settings) and (outcome := finished(settings, display.console)):
        return outcome
    started = time.monotonic()
    with open_resources(settings, accelerator, display) as resources:
        verdict = train(resources)
        result = conclude(resources, verdict, started) if resources.main else None
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return result
