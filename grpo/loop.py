"""The training loop: prompts, rollout, rewards, advantages, update, sync, evaluation, convergence, checkpoint.

A run starts by resuming, step 0 being a resume from nothing. Everything random is a pure function of the seed and the
step, so a step that is repeated after a crash is the same step.

Left out on purpose: a value network, a reward model, a replay buffer, an exploration bonus.
"""

import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from grpo import advantages, prompts
from grpo.checkpoint import restore
from grpo.config import Config
from grpo.convergence import Point, Verdict, judge
from grpo.display import Display
from grpo.errors import CheckpointError, RewardError
from grpo.evaluate import best, evaluate
from grpo.metrics import count_tokens, describe, point
from grpo.outcome import Outcome, conclude, finished
from grpo.resources import Main, Resources, open_resources
from grpo.rollout import Delivery, Sampling, collect
from grpo.runlog import read_lines
from grpo.sync import Agreement
from grpo.types import Evaluation, Group

TRAIN_STREAM, HELDOUT_STREAM = 0, 1
UNCHANGED = (Delivery(seconds=0.0, modules=0, survived=None), Agreement(residual=0.0, change=0.0, visible=None))
"""A step without an update has nothing to sync."""


def train(resources: Resources) -> Verdict:
    """Run until the verdict says stop. Every rank calls it."""
    config, display = resources.config, resources.display
    points = resume(resources)
    verdict = verdict_of(points, config)
    with display.training(len(points), config.run.steps):
        while not verdict.stop:
            started, step = time.monotonic(), len(points)
            groups = resources.share(rollouts(resources, step))
            sampled = time.monotonic() - started
            display.phase("updating the policy")
            sequences = advantages.assign(groups, config.update.advantage_scale, keep_all=config.update.kl_coef > 0)
            stats = resources.updater.step(sequences, count_tokens(groups), step)
            updated = time.monotonic() - started - sampled
            points.append(point(groups, step))
            verdict = verdict_of(points, config)
            if resources.main:
                changed = stats.trained_tokens > 0
                delivery, agreement = deliver(resources, resources.main, step + 1) if changed else UNCHANGED
                heldout = evaluate_heldout(resources, resources.main, step + 1, last=verdict.stop)
                record = describe(step, groups, stats, delivery, agreement, heldout)
                record |= {"seconds_sampling": sampled, "seconds_update": updated, "status": verdict.status}
                record["seconds"] = time.monotonic() - started
                record["tokens_per_second"] = count_tokens(groups) / record["seconds"]
                commit(resources, resources.main, record, verdict)
            resources.accelerator.wait_for_everyone()
    return verdict


def verdict_of(points: list[Point], config: Config) -> Verdict:
    """The stop rule on the run so far."""
    return judge(points, config.convergence, warmup=config.update.warmup_steps, budget=config.run.steps)


def history(run: Path) -> list[Point]:
    """What the stop rule sees of the steps in a run directory."""
    return [
        Point(step=m["step"], reward=m["critic_rewards_mean"], signal_share=1 - m["zero_variance_share"])
        for m in read_lines(run / "metrics.jsonl")
    ]


def resume(resources: Resources) -> list[Point]:
    """Go on from the last complete step: weights, optimizer, history; the sampler gets the weights."""
    config = resources.config
    newest = resources.checkpoints.newest()
    if newest:
        restore(newest, resources.policy, resources.updater)
    points: list[Point] = []
    if resources.main:
        done = newest.step if newest else 0
        log = resources.main.log
        log.rewind(done)
        (config.run.dir / "result.json").unlink(missing_ok=True)
        points = history(config.run.dir)
        if len(points) != done:
            raise CheckpointError(f"{log.metrics_path} has {len(points)} of the {done} steps the checkpoint contains")
        log.event("resume" if newest else "start", step=done, sampler=resources.main.sampler.name)
        resources.display.note(f"resuming after step {done}") if newest else None
        deliver(resources, resources.main, done)
        evaluate_heldout(resources, resources.main, done, last=False)
    shared: list[list[Point]] = broadcast_object_list([points])
    return shared[0]


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


def commit(resources: Resources, main: Main, record: dict[str, Any], verdict: Verdict) -> None:
    """Make the step durable: its metrics first, then the checkpoint that confirms them."""
    main.log.metric(record)
    done = record["step"] + 1
    if verdict.look and verdict.look.step == done:
        main.log.event("look", **asdict(verdict.look), status=verdict.status, reason=verdict.reason)
    resources.checkpoints.save(done, resources.policy, resources.updater)
    evaluations = main.log.evaluations()
    recent = {e.step for e in evaluations[-resources.config.run.keep_checkpoints :]}
    chosen = best(evaluations)
    resources.checkpoints.prune(recent | ({chosen.step} if chosen else set()))
    resources.display.step(record, verdict, resources.config.run.steps)


def run(settings: Config, display: Display) -> Outcome | None:
    """Train and conclude: choose the checkpoint, score the test prompts, write result.json; None on other ranks."""
    # The other ranks wait while the main one samples, scores and restarts engines, for as long as that takes.
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])
    if not accelerator.is_main_process:
        display = Display(quiet=True)
    if verdict_of(history(settings.run.dir), settings).stop and (outcome := finished(settings, display.console)):
        return outcome
    started = time.monotonic()
    with open_resources(settings, accelerator, display) as resources:
        verdict = train(resources)
        result = conclude(resources, verdict, started) if resources.main else None
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return result
