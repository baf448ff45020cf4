"""One step's scored groups: sampled, filled up where they carry no signal, durable before they are used.

Everything random is a pure function of the seed, the step and the round. Touches: processes, disk.
"""

from collections.abc import Sequence as Seq
from dataclasses import replace

from grpo import prompts
from grpo.advantages import has_no_signal
from grpo.drawing import Candidate
from grpo.errors import RewardError
from grpo.resources import Main, Resources
from grpo.rollout import Sampling
from grpo.types import Group, Prompt

TRAIN_STREAM, REFILL_STREAM = 0, 4
MOST_ROUNDS = 10


def groups_of(resources: Resources, candidates: Seq[Candidate], step: int) -> list[Group] | None:
    """The groups of step ``step``, first those of the candidates it picked; None on other ranks.

    Raises RewardError, EngineError.
    """
    main, config = resources.main, resources.config
    if main is None:
        return None
    main.reward.seconds = main.reward.slowest = 0.0
    saved = main.log.load_rollouts(step)
    if saved:
        return saved
    chosen = [resources.splits.train[candidate.index] for candidate in candidates if candidate.picked]
    groups = scored(resources, main, chosen, TRAIN_STREAM, step)
    check_scored(groups, step, config.reward.max_error_share)
    for number in range(config.rollout.refill_rounds):
        missing = len(chosen) - sum(not has_no_signal(group) for group in groups)
        seen = {group.prompt.index for group in groups}
        more = prompts.draw(resources.splits.train, missing, seen, (config.run.seed, REFILL_STREAM, step, number))
        if not more:
            break
        found = scored(resources, main, more, REFILL_STREAM, step * MOST_ROUNDS + number)
        groups += [replace(group, extra=True) for group in found]
    main.log.save_rollouts(step, groups)
    return groups


def scored(resources: Resources, main: Main, chosen: Seq[Prompt], stream: int, step: int) -> list[Group]:
    """A group of completions for each prompt, with rewards."""
    config = resources.config
    resources.display.phase("sampling")
    sampling = Sampling(
        completions=config.rollout.completions_per_prompt,
        max_tokens=config.rollout.max_tokens,
        temperature=config.rollout.temperature,
    )
    sampled = main.player.collect(chosen, sampling, seed=config.run.seed, stream=stream, step=step)
    resources.display.phase("scoring")
    return main.reward.score(sampled)


def check_scored(groups: Seq[Group], step: int, most: float) -> None:
    """Raises RewardError when nothing could be scored, or less than the configuration wants."""
    errors = [reward.error for group in groups for reward in group.rewards if reward.value is None]
    total = sum(len(group.rewards) for group in groups)
    if len(errors) == total or len(errors) > most * total:
        raise RewardError(
            f"{len(errors)} of {total} completions of step {step + 1} could not be scored "
            f"(reward.max_error_share = {most:g}), first: {errors[0]}"
        )
