"""The records that travel between the stages. All are frozen: a stage returns new records, it never edits its input."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One row of a prompt file, tokenised once."""

    index: int
    """Position in its file, from 0; with the split's name it identifies the prompt."""
    messages: tuple[dict[str, Any], ...]
    """The conversation so far, as the reward function will see it."""
    token_ids: tuple[int, ...]
    """The chat template applied to ``messages``, ending where the assistant's turn begins."""
    reference_answer: Any = None
    """Any JSON value, handed to the reward function; None where the row has none."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Every other field of the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer, in the engine's own tokens."""

    token_ids: tuple[int, ...]
    """Sampled tokens, the end-of-sequence token included when it was sampled."""
    logprobs: tuple[float, ...]
    """Log-probability (nats) of each token under the policy that sampled it, at the sampling temperature."""
    text: str
    """Decoded tokens without special tokens."""
    finish_reason: str
    """``stop`` (end of sequence) or ``length`` (cut at the limit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What the reward function said about one completion."""

    value: float | None
    """The score, or None when scoring failed: such a completion takes no part in any mean or loss."""
    error: str | None = None
    """Why ``value`` is None."""
    parts: dict[str, float] = field(default_factory=dict)
    """The function's ``metrics_list`` by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All completions of one prompt in one step, with their rewards in the same order."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    rewards: tuple[Reward, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """Rewards that exist, failures left out."""
        return tuple(r.value for r in self.rewards if r.value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """One completion as the trainer sees it: its group's prompt, its tokens and its advantage."""

    group: int
    """Which prompt of the step it answers; sequences of one group share the prompt's forward pass."""
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    advantage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Mean reward on a fixed prompt set, with a 95 % interval over prompts."""

    step: int
    mean: float
    low: float
    high: float
    n: int
    """Completions scored."""
    prompt_means: tuple[float, ...]
    """Mean reward of each prompt, in file order, for paired comparisons."""
    errors: int = 0
    """Completions whose scoring failed."""
