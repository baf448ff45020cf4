"""Completions of several turns: the policy speaks, an environment answers, until one of them ends it.

The environment is a user's function, called like a reward function (rewards.py) with the conversations that wait for an
answer:

    environment_handler(event, context)   event: a list of {id, messages, reference_answer, metadata}
                                          returns a list of {id, messages} or {id, done: true}

It keeps nothing between calls: all it knows is the conversation, so a step that is repeated is the same step. No tokens
are derived from text that the policy sampled: an episode's next prompt is the tokens so far and what the chat template
puts after an assistant's turn. What the environment wrote is in the context and not in the loss. Touches: user code.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grpo.errors import ModelError
from grpo.prompts import NO_OPTIONS, render
from grpo.rewards import Pool, call_each, entries_by_id, event
from grpo.rollout import Sampler, Sampling, collect
from grpo.rows import RowError, check_message
from grpo.types import Completion, Prompt

ANSWER = "6f1d0c2b9a"
"""Stands for an assistant's turn where the template's own tokens are wanted."""
ROLES = ("user", "tool")
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the environment says to one conversation: messages, or nothing more, or an error."""

    messages: tuple[dict[str, Any], ...] = ()
    error: str | None = None


class Environment:
    """The user's function, and the template that frames what it says."""

    def __init__(
        self, pool: Pool, tokenizer: Any, stops: set[int], turns: int, longest: int, template: Mapping[str, Any]
    ) -> None:
        """``stops``: end-of-sequence tokens; ``turns``: the most of the policy; ``longest``: reply, in tokens.

        Raises ModelError when the model's template cannot go on after a turn as it was sampled.
        """
        self.pool, self.tokenizer, self.template = pool, tokenizer, template
        self.turns, self.longest = turns, longest
        user = {"role": "user", "content": "?"}
        begun = self.frame([user], (user,), NO_OPTIONS)
        if begun[0] not in stops:
            raise ModelError(
                f"the chat template ends an assistant's turn with {tokenizer.decode(begun[:1])!r}, which is not how "
                "the model ends one: its turns cannot be continued in an environment"
            )

    def answer(self, events: list[dict[str, Any]]) -> list[Reply]:
        """One reply an event, in order."""
        return self.pool.each(events, lambda function, part: call_each(function, part, parse, lambda e: Reply(error=e)))

    def frame(self, said: Seq[Message], reply: Seq[Message], metadata: Mapping[str, Any]) -> list[int]:
        """Tokens from the end of an assistant's turn after ``said`` to where its next turn begins.

        Raises RowError when the template refuses the reply.
        """
        conversation = [*said, {"role": "assistant", "content": ANSWER}, *reply]
        text = render(conversation, metadata.get("tools"), self.tokenizer, self.template, tokenize=False)
        _, found, after = text.rpartition(ANSWER)
        if not found:
            raise RowError("the model's chat template leaves out earlier turns")
        ids: list[int] = self.tokenizer.encode(after, add_special_tokens=False)
        return ids


@dataclass(frozen=True, slots=True)
class Player:
    """Draws completions: in one turn, or with an environment in several."""

    sampler: Sampler
    environment: Environment | None = None

    def collect(
        self, prompts: Seq[Prompt], sampling: Sampling, *, seed: int, stream: int, step: int
    ) -> list[tuple[Prompt, tuple[Completion, ...]]]:
        """A group of completions for each prompt; a function of its arguments, the weights and the environment."""
        groups = collect(self.sampler, prompts, sampling, seed=seed, stream=stream, step=step)
        if self.environment is None:
            return groups
        flat = [(prompt, completion) for prompt, completions in groups for completion in completions]
        ended = iter(self._play(self.environment, flat, sampling, (seed, stream, step)))
        return [(prompt, tuple(next(ended) for _ in completions)) for prompt, completions in groups]

    def _play(
        self, environment: Environment, begun: Seq[tuple[Prompt, Completion]], sampling: Sampling, key: tuple[int, ...]
    ) -> list[Completion]:
        episodes = [completion for _, completion in begun]
        going = list(range(len(episodes)))
        for turn in range(1, environment.turns):
            going = [i for i in going if episodes[i].finish_reason == "stop"]
            replies = environment.answer([event(begun[i][0], episodes[i], f"sample-{i}") for i in going])
            answered = {
                i: extended(begun[i][0], episodes[i], reply, environment)
                for i, reply in zip(going, replies, strict=True)
            }
            going = [i for i in going if len(answered[i].turns) > len(episodes[i].turns)]
            episodes = [answered.get(i, episode) for i, episode in enumerate(episodes)]
            if not going:
                break
            contexts = [[*begun[i][0].token_ids, *episodes[i].token_ids] for i in going]
            seeds = np.random.SeedSequence([*key, turn]).generate_state(len(episodes)) >> np.uint32(1)
            said = self.sampler.sample(contexts, replace(sampling, completions=1), [int(seeds[i]) for i in going])
            for i, (answer,) in zip(going, said, strict=True):
                episodes[i] = continued(episodes[i], answer)
        return episodes


def extended(prompt: Prompt, completion: Completion, reply: Reply, environment: Environment) -> Completion:
    """With the environment's reply behind it; as it was where there is none; with its error where it is of no use."""
    if reply.error is not None:
        return replace(completion, error=f"environment: {reply.error}")
    if not reply.messages:
        return completion
    said = [*prompt.messages, *completion.turns]
    try:
        ids = environment.frame(said, reply.messages, prompt.metadata)
    except RowError as error:
        return replace(completion, error=f"environment: {error}")
    if len(ids) > environment.longest:
        return replace(
            completion,
            error=f"environment: a reply of {len(ids)} tokens, more than environment.max_reply_tokens = "
            f"{environment.longest}",
        )
    if completion.token_ids[-1] == ids[0]:
        ids = ids[1:]  # the policy has ended its turn itself
    start = len(completion.token_ids)
    return replace(
        completion,
        token_ids=(*completion.token_ids, *ids),
        logprobs=(*completion.logprobs, *[0.0] * len(ids)),
        foreign=(*completion.foreign, (start, start + len(ids))),
        turns=(*completion.turns, completion.message, *reply.messages),
    )


def continued(completion: Completion, answer: Completion) -> Completion:
    """With the policy's next turn behind it."""
    return replace(
        answer,
        token_ids=(*completion.token_ids, *answer.token_ids),
        logprobs=(*completion.logprobs, *answer.logprobs),
        foreign=completion.foreign,
        turns=completion.turns,
    )


def parse(result: Any, events: Seq[dict[str, Any]]) -> list[Reply]:
    """Match a result list to its events by id. Raises CallFailed when it is not a list of objects with ids."""
    by_id = entries_by_id(result, "id, messages")
    return [_reply(by_id.get(sample["id"])) for sample in events]


def _reply(entry: dict[str, Any] | None) -> Reply:
    if entry is None:
        return Reply(error="no entry with this sample's id in the result")
    if entry.get("done") is True:
        return Reply()
    messages = entry.get("messages")
    if not isinstance(messages, list) or not messages:
        return Reply(error="expected messages, a list that is not empty, or done: true")
    try:
        checked = [check_message(message, f"messages[{i}]", ROLES) for i, message in enumerate(messages)]
    except RowError as error:
        return Reply(error=str(error))
    return Reply(messages=tuple(checked))
