"""The training loop: prompts, rollout, rewards, advantages, update, sync, evaluation, convergence, checkpoint.

A run starts by resuming, step 0 being a resume from nothing. Everything random is a pure function of the seed and the
step, so a step that is repeated after a crash is the same step.

Left out on purpose: a value network, a reward model, a replay buffer, an exploration bonus.
"""

import time
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from grpo import advantages, ahead, selection
from grpo.checkpoint import history, restore
from grpo.config import Config
from grpo.convergence import Verdict, judge
from grpo.display import Display
from grpo.drawing import Candidate, next_candidates
from grpo.engine_choice import takes_turns
from grpo.errors import CheckpointError
from grpo.evaluate import evaluate
from grpo.groups import groups_of
from grpo.headstart import HeadStart
from grpo.memory import device_name, keep_freed, peak_gib
from grpo.metrics import describe, describe_heldout, describe_sync
from grpo.outcome import Outcome, conclude, finished
from grpo.outlook import forecast_of, resolution
from grpo.points import Point, of_record
from grpo.resources import Main, Resources, open_resources
from grpo.rollout import Delivery, Sampling
from grpo.runlog import RunLog
from grpo.sinks import open_sinks
from grpo.sync import Agreement
from grpo.types import Evaluation, Sequence
from grpo.update import UpdateStats

HELDOUT_STREAM = 1
UNCHANGED = (Delivery(seconds=0.0, modules=0, survived=None), Agreement(residual=0.0, change=0.0, visible=None))
"""A step without an update has nothing to sync."""


def train(resources: Resources) -> Verdict:
    """Run until the verdict says stop. Every rank calls it."""
    config, display = resources.config, resources.display
    points, verdict = resources.share(resume(resources))
    with display.training(len(points), config.run.steps):
        while not verdict.stop:
            started, step = time.monotonic(), len(points)
            candidates = candidates_of(config, points, len(resources.splits.train))
            groups = resources.share(groups_of(resources, candidates, step))
            sampled = time.monotonic()
            sequences = advantages.assign(groups, config.update, config.most_sampled)
            with sampling_next(resources, points, candidates):
                stats = update(resources, sequences, step)
                updated = time.monotonic()
            record = describe(step, candidates, groups, sequences, stats)
            points.append(of_record(record))
            waited = sampled - started + time.monotonic() - updated
            record |= {"seconds_sampling": waited, "seconds_update": updated - sampled}
            verdict = resources.share(close_step(resources, points, record, started))
    return verdict


def candidates_of(config: Config, points: Seq[Point], prompts: int, training: Seq[Candidate] = ()) -> list[Candidate]:
    """The prompts the next step looks at: a function of the past, the same on every rank and after a resume.

    ``training``: the candidates of a step that is under way. Steps sampled ahead know the rewards of the last but one,
    whether it is under way or over.
    """
    rollout, step = config.rollout, len(points) + bool(training)
    return next_candidates(
        points[: step - 1] if rollout.ahead else points,
        prompts,
        step=step,
        place=sum(point.visited for point in points) + len(training),
        count=rollout.prompts_per_step,
        group=rollout.completions_per_prompt,
        skip=rollout.skip_silent,
        seed=config.run.seed,
    )


def sampling_next(resources: Resources, points: Seq[Point], training: Seq[Candidate]) -> AbstractContextManager[None]:
    """With ``rollout.ahead`` the groups of the step after the one in training are sampled within the block."""
    config, following = resources.config, len(points) + 1
    if not config.rollout.ahead or following == config.run.steps:
        return nullcontext()
    candidates = candidates_of(config, points, len(resources.splits.train), training)
    return ahead.sampling(resources, candidates, following)


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
    main.sinks.extend(open_sinks(config, main.log))
    main.log.event("resume" if newest else "start", step=done, sampler=main.sampler.name, **placed(resources))
    resources.display.note(
        f"resuming after step {done}" if newest else resolution(config, len(resources.splits.heldout))
    )
    deliver(resources, main, done)
    evaluate_heldout(resources, main, done, last=False)
    return points, verdict_of(points, main.log.evaluations(), config)


def placed(resources: Resources) -> dict[str, Any]:
    """On what the run computes; engines elsewhere have cards of their own."""
    device, ranks = resources.accelerator.device, resources.accelerator.num_processes
    cards = max(ranks, resources.config.rollout.tensor_parallel) if device.type == "cuda" else 0
    return {"ranks": ranks, "device": device_name(device), "gpus": cards}


def update(resources: Resources, sequences: Seq[Sequence], step: int) -> UpdateStats:
    """Move the policy. Where the engine sleeps meanwhile, no rank begins before it has left the cards, and every rank
    gives back what its allocator kept before the engine wakes."""
    resources.display.phase("updating the policy")
    turns = takes_turns(resources.config, resources.accelerator.device.type)
    if turns:
        if resources.main:
            resources.main.sampler.rest()
        resources.accelerator.wait_for_everyone()
    stats = resources.updater.step(sequences, step)
    if turns:
        torch.cuda.empty_cache()
        resources.accelerator.wait_for_everyone()
    return stats


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
        main.player,
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
    record |= {"seconds_scoring": main.reward.seconds, "seconds_slowest_call": main.reward.slowest}
    changed = record["trained_tokens"] > 0
    record |= describe_sync(*(deliver(resources, main, done) if changed else UNCHANGED))
    heldout = evaluate_heldout(resources, main, done, last=False)
    verdict = verdict_of(points, main.log.evaluations(), resources.config)
    heldout = heldout or evaluate_heldout(resources, main, done, last=verdict.stop)
    record |= describe_heldout(heldout) if heldout else {}
    seconds = time.monotonic() - started
    record |= {"status": verdict.status, "seconds": seconds}
    record["tokens_per_second"] = record["sampled_tokens"] / seconds
    record["memory_peak_gib"] = peak_gib(resources.policy.device)
    commit(resources, main, points, record, verdict)
    return verdict


def commit(resources: Resources, main: Main, points: list[Point], record: dict[str, Any], verdict: Verdict) -> None:
    """Make the step durable: its metrics first, then the checkpoint that confirms them."""
    config, done = resources.config, len(points)
    main.log.metric(record)
    for sink in main.sinks:
        sink.step(record)
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


def run(settings: Config, display: Display, early: HeadStart | None = None) -> Outcome | None:
    """Train and conclude: choose the checkpoint, score the test prompts, write result.json; None on other ranks.

    ``early``: engines that were launched before.
    """
    # The other ranks wait while the main one samples, scores and restarts engines, for as long as that takes.
    patient = InitProcessGroupKwargs(timeout=timedelta(days=7))
    # Without a GPU accelerate sees the ranks of a launch only when it is told that the CPU is meant.
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patient])
    if accelerator.device.type == "cpu":
        keep_freed()
    if not accelerator.is_main_process:
        display = Display(quiet=True)
    if early and not (accelerator.is_main_process and accelerator.device.type == "cpu"):
        early.close()  # of a launcher or a card that was not seen before torch was there
    if ended(settings) and (outcome := finished(settings, display.console)):
        return outcome
    started = time.monotonic()
    with open_resources(settings, accelerator, display, early) as resources:
        verdict = train(resources)
        result = conclude(resources, verdict, started) if resources.main else None
        resources.share("concluded")
    accelerator.end_training()
    return result
