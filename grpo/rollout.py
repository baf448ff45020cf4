"""Prompts in, sampled completions out. The sampler is a seam with two sides: vLLM and transformers."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from grpo.types import Completion, Prompt

PROBE_TOKENS = 12
"""Completion tokens that a sampler must be able to score, however short the run's completions are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. Top-p, top-k and penalties are always off: the trainer's distribution is the full one."""

    completions: int
    """Per prompt."""
    max_tokens: int
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What a sampler reports after new weights reached it."""

    seconds: float
    modules: int
    """Adapted modules the sampler runs."""
    survived: float | None
    """Share of the update that survives rounding to the sampler's dtype; None where an adapter is sent as it is."""


class Sampler(Protocol):
    """Draws completions from the policy as of the last ``sync``."""

    name: str

    def ready(self) -> None:
        """Wait until it can be used; only after it was made. Raises EngineError."""
        ...

    def sync(self, version: str) -> Delivery:
        """Bring the trainer's current weights to the sampler. Raises EngineError, SyncError."""
        ...

    def sample(self, prompts: Seq[Seq[int]], sampling: Sampling, seeds: Seq[int]) -> list[list[Completion]]:
        """Completions per prompt, in order; a pure function of weights, prompts, sampling and seeds on a CPU."""
        ...

    def rest(self) -> None:
        """Nothing is asked of it until the next ``sync`` or ``sample``: it may hand its memory to the trainer."""
        ...

    def hold(self, held: bool) -> None:
        """Whether the policy moves meanwhile: an engine that fails stays down then, and EngineDown says so."""
        ...

    def score(self, sequences: Seq[tuple[Seq[int], Seq[int]]]) -> list[list[float]]:
        """Log-probability (temperature 1) of each completion token after its prompt: [(prompt, completion)]."""
        ...

    def close(self) -> None: ...


def collect(
    sampler: Sampler, prompts: Seq[Prompt], sampling: Sampling, *, seed: int, stream: int, step: int
) -> list[tuple[Prompt, tuple[Completion, ...]]]:
    """A group of completions for each prompt. ``stream`` keeps training and evaluations on separate random numbers."""
    seeds = np.random.SeedSequence([seed, stream, step]).generate_state(len(prompts)) >> np.uint32(1)
    groups = sampler.sample([p.token_ids for p in prompts], sampling, [int(s) for s in seeds])
    return [(prompt, tuple(group)) for prompt, group in zip(prompts, groups, strict=True)]
