"""Several engines as one sampler: each has the same weights, each samples its share of the prompts.

A share depends on the position of a prompt alone, so a repeated request draws the same completions.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from grpo.errors import SyncError
from grpo.rollout import Delivery, Sampler, Sampling
from grpo.types import Completion

Result = TypeVar("Result")


class Replicas:
    """All at once, wherever there is something for each to do."""

    def __init__(self, samplers: Seq[Sampler]) -> None:
        self.samplers = tuple(samplers)
        self.name = ", ".join(sampler.name for sampler in samplers)

    def ready(self) -> None:
        """All of them: they started together."""
        for sampler in self.samplers:
            sampler.ready()

    def sync(self, version: str) -> Delivery:
        """To one after the other, for they read the same policy. Raises SyncError where one runs other modules."""
        started = time.monotonic()
        deliveries = [sampler.sync(version) for sampler in self.samplers]
        modules = {delivery.modules for delivery in deliveries}
        if len(modules) > 1:
            raise SyncError(f"the engines run different numbers of adapted modules: {sorted(modules)}")
        survived = [delivery.survived for delivery in deliveries if delivery.survived is not None]
        return Delivery(
            seconds=time.monotonic() - started, modules=modules.pop(), survived=min(survived) if survived else None
        )

    def sample(self, prompts: Seq[Seq[int]], sampling: Sampling, seeds: Seq[int]) -> list[list[Completion]]:
        """Engine i of n samples every nth prompt from the ith on."""
        count = len(self.samplers)
        parts = self._all(lambda i, sampler: sampler.sample(prompts[i::count], sampling, seeds[i::count]))
        return [parts[place % count][place // count] for place in range(len(prompts))]

    def rest(self) -> None:
        """Those sleep that can."""
        self._all(lambda _, sampler: sampler.rest())

    def hold(self, held: bool) -> None:
        for sampler in self.samplers:
            sampler.hold(held)

    def score(self, sequences: Seq[tuple[Seq[int], Seq[int]]]) -> list[list[float]]:
        """By the first; each is proved by itself."""
        return self.samplers[0].score(sequences)

    def close(self) -> None:
        for sampler in self.samplers:
            sampler.close()

    def _all(self, work: Callable[[int, Sampler], Result]) -> list[Result]:
        with ThreadPoolExecutor(len(self.samplers)) as pool:
            return list(pool.map(work, range(len(self.samplers)), self.samplers))
