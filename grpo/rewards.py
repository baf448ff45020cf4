"""Completions in, rewards out: a function with Bedrock's Lambda contract, wherever it runs.

Contract (docs.aws.amazon.com/bedrock/latest/userguide/reward-functions.html): ``lambda_handler(event, context)`` gets
a list of {id, messages, reference_answer, metadata} and returns a list of {id, aggregate_reward_score, metrics_list}.
The last message is the completion. A string reference is wrapped as {"text": ...}, at top level and in the metadata,
which is what AWS's own reward functions read.

A failed score is data: the completion gets ``value=None`` with the reason. A call that raises, hangs or returns the
wrong thing is repeated sample by sample, so that one bad completion does not cost its neighbours their scores.
Touches: processes, network, user code.
"""

import reprlib
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from grpo.reward_process import CallFailed, ProcessFunction
from grpo.reward_remote import AwsFunction, UrlFunction
from grpo.sandbox import LEVELS, Level
from grpo.sections import Reward as Settings
from grpo.types import Completion, Group, Prompt, Reward

Answer = TypeVar("Answer")
MOST_CONSECUTIVE_TIMEOUTS = 3
LARGEST_SCORE = 1e9
MOST_PARTS, LONGEST_NAME, LONGEST_ERROR = 64, 128, 1000


class Function(Protocol):
    """Something that can be called with a batch."""

    def call(self, events: list[dict[str, Any]]) -> Any:
        """What the handler returns. Raises CallFailed."""
        ...

    def close(self) -> None:
        """Let go of processes and connections."""
        ...


class RewardFunction:
    """Scores groups by one function or several, in batches, several at a time where the configuration says so."""

    def __init__(self, config: Settings, log: Path) -> None:
        """Raises RewardError when a file or its handler cannot be loaded, SetupError when something is missing."""
        self.config = config
        self._graders = [(name, weight, Pool(settings, log)) for name, weight, settings in config.sources()]
        self.seconds = 0.0
        """Of all scoring since this was set to 0."""
        self.slowest = 0.0
        """Seconds of the call that took longest since then."""

    @property
    def sandbox(self) -> str | None:
        """The weakest level at which a function runs; None where all run elsewhere."""
        levels = [pool.sandbox for _, _, pool in self._graders if pool.sandbox]
        return max(levels, key=LEVELS.index, default=None)

    def score(self, groups: Seq[tuple[Prompt, tuple[Completion, ...]]]) -> list[Group]:
        """All groups with their rewards; scoring failures become rewards without a value."""
        started = time.monotonic()
        events = [
            event(prompt, completion, f"sample-{g}-{c}")
            for g, (prompt, completions) in enumerate(groups)
            for c, completion in enumerate(completions)
            if completion.error is None
        ]
        scored = [pool.score(events) for _, _, pool in self._graders]
        flat = iter([self._joined(rewards) for rewards in zip(*scored, strict=True)])
        self.seconds += time.monotonic() - started
        self.slowest = max(self.slowest, *(pool.slowest for _, _, pool in self._graders))
        return [
            Group(
                prompt=prompt,
                completions=completions,
                rewards=tuple(Reward(value=None, error=c.error) if c.error else next(flat) for c in completions),
            )
            for prompt, completions in groups
        ]

    def _joined(self, rewards: Seq[Reward]) -> Reward:
        """One completion's scores by all graders; of a single one what it said."""
        if not self.config.graders:
            return rewards[0]
        return join([(name, weight) for name, weight, _ in self._graders], rewards)

    def close(self) -> None:
        """End whatever runs for us."""
        for _, _, pool in self._graders:
            pool.close()


def join(graders: Seq[tuple[str, float]], rewards: Seq[Reward]) -> Reward:
    """The weighted sum of a completion's scores, each kept as a part; without a value where one is missing."""
    parts: dict[str, float] = {}
    total = 0.0
    for (name, weight), reward in zip(graders, rewards, strict=True):
        if reward.value is None:
            return Reward(value=None, error=f"{name}: {reward.error}")
        total += weight * reward.value
        parts |= {name: reward.value} | {f"{name}.{part}": value for part, value in reward.parts.items()}
    return Reward(value=total, parts=parts)


class Pool:
    """As many instances of one function as batches may be scored at the same time."""

    def __init__(self, config: Settings, log: Path) -> None:
        self.config = config
        self._idle: SimpleQueue[Function] = SimpleQueue()
        self._functions: list[Function] = []
        self.slowest = 0.0
        """Seconds of the batch that took longest in the last ``each``."""
        while len(self._functions) < config.concurrency:
            self._functions.append(connect(config, log))
            self._idle.put(self._functions[-1])

    @property
    def sandbox(self) -> Level | None:
        """The level at which the function runs; None where it runs elsewhere."""
        first = self._functions[0]
        return first.level if isinstance(first, ProcessFunction) else None

    def score(self, events: list[dict[str, Any]]) -> list[Reward]:
        """One reward an event, in order."""
        return self.each(events, self._score_batch)

    def each(
        self, events: list[dict[str, Any]], work: Callable[[Function, list[dict[str, Any]]], list[Answer]]
    ) -> list[Answer]:
        """What ``work`` makes of the events, batch by batch, as many at a time as there are instances."""
        size = self.config.batch_size
        batches = [events[start : start + size] for start in range(0, len(events), size)]

        def with_function(batch: list[dict[str, Any]]) -> list[Answer]:
            function, started = self._idle.get(), time.monotonic()
            try:
                return work(function, batch)
            finally:
                self.slowest = max(self.slowest, time.monotonic() - started)
                self._idle.put(function)

        self.slowest = 0.0
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            return [answer for answers in pool.map(with_function, batches) for answer in answers]

    def close(self) -> None:
        """End the functions."""
        for function in self._functions:
            function.close()

    def _score_batch(self, function: Function, events: list[dict[str, Any]]) -> list[Reward]:
        rewards = score_batch(function, events)
        for _ in range(self.config.retries):
            failed = [i for i, reward in enumerate(rewards) if reward.value is None]
            again = iter(score_batch(function, [events[i] for i in failed]) if failed else ())
            rewards = [next(again) if reward.value is None else reward for reward in rewards]
        return rewards


def connect(config: Settings, log: Path) -> Function:
    """The function that the configuration names."""
    if config.url:
        return UrlFunction(config)
    return AwsFunction(config) if config.function else ProcessFunction(config, log)


def score_batch(function: Function, events: list[dict[str, Any]]) -> list[Reward]:
    """One reward an event."""
    return call_each(function, events, parse, lambda reason: Reward(value=None, error=reason))


def call_each(
    function: Function,
    events: list[dict[str, Any]],
    parse: Callable[[Any, Seq[dict[str, Any]]], list[Answer]],
    failed: Callable[[str], Answer],
) -> list[Answer]:
    """One answer an event: of one call, else of a call each, so that a bad sample costs nobody else an answer."""
    try:
        return parse(function.call(events), events)
    except CallFailed as error:
        if len(events) == 1:
            return [failed(str(error))]
    answers: list[Answer] = []
    timeouts = 0
    for single in events:
        if timeouts >= MOST_CONSECUTIVE_TIMEOUTS:
            answers.append(failed(f"not tried: {timeouts} samples before it timed out in a row"))
            continue
        try:
            answers += parse(function.call([single]), [single])
            timeouts = 0
        except CallFailed as error:
            answers.append(failed(str(error)))
            timeouts = timeouts + 1 if error.timed_out else 0
    return answers


def event(prompt: Prompt, completion: Completion, sample_id: str) -> dict[str, Any]:
    """One entry of the batch the reward function receives."""
    reference = prompt.reference_answer
    if isinstance(reference, str):
        reference = {"text": reference}
    sample: dict[str, Any] = {
        "id": sample_id,
        "messages": [*prompt.messages, *completion.turns, completion.message],
        "metadata": dict(prompt.metadata),
    }
    if reference is not None:
        sample["reference_answer"] = reference
        sample["metadata"]["reference_answer"] = reference
    return sample


def parse(result: Any, events: Seq[dict[str, Any]]) -> list[Reward]:
    """Match a result list to its events by id. Raises CallFailed when it is not a list of objects with ids."""
    by_id = entries_by_id(result, "id, aggregate_reward_score")
    return [_reward(by_id.get(sample["id"])) for sample in events]


def entries_by_id(result: Any, wanted: str) -> dict[str, dict[str, Any]]:
    """Raises CallFailed when the result is not a list of objects, which should have what is ``wanted``."""
    if not isinstance(result, list) or not all(isinstance(entry, dict) for entry in result):
        raise CallFailed(f"returned {type(result).__name__}, expected a list of objects with {wanted}")
    return {entry["id"]: entry for entry in result if isinstance(entry.get("id"), str)}


def _reward(entry: dict[str, Any] | None) -> Reward:
    if entry is None:
        return Reward(value=None, error="no entry with this sample's id in the result")
    score = entry.get("aggregate_reward_score")
    if score is None and isinstance(entry.get("error"), str):
        return Reward(value=None, error=entry["error"][:LONGEST_ERROR])
    if score is None or not is_number(score):
        return Reward(value=None, error=f"aggregate_reward_score is {reprlib.repr(score)}, expected a number up to 1e9")
    metrics = entry.get("metrics_list")
    parts = {
        str(metric["name"])[:LONGEST_NAME]: float(metric["value"])
        for metric in (metrics[:MOST_PARTS] if isinstance(metrics, list) else [])
        if isinstance(metric, dict) and "name" in metric and is_number(metric.get("value"))
    }
    return Reward(value=float(score), parts=parts)


def is_number(value: Any) -> bool:
    """An int or float of a size that squares and sums; booleans are not scores."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -LARGEST_SCORE <= value <= LARGEST_SCORE  # false for NaN; an int may be too large for a float
