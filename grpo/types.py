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
    """The answer: decoded tokens without special tokens, and without what the model thought before."""
    finish_reason: str
    """``stop`` (end of sequence) or ``length`` (cut at the limit)."""
    reasoning: str = ""
    """What a model that thinks before it answers thought."""
    turns: tuple[dict[str, Any], ...] = ()
    """Of an episode: the messages before the last one, the policy's and the environment's."""
    foreign: tuple[tuple[int, int], ...] = ()
    """Stretches [start, end) of ``token_ids`` that the environment wrote; their log-probabilities are 0."""
    error: str | None = None
    """Why an episode broke off: it has no reward."""

    @property
    def message(self) -> dict[str, Any]:
        """The answer as the last message of the conversation."""
        thought = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": "assistant", "content": self.text, **thought}

    @property
    def policy_turns(self) -> int:
        """How often the policy spoke."""
        return 1 + sum(1 for message in self.turns if message["role"] == "assistant")

    @property
    def sampled(self) -> int:
        """How many of its tokens the policy sampled."""
        return len(self.token_ids) - sum(end - start for start, end in self.foreign)


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
    extra: bool = False
    """Sampled in place of a group without signal: trained on, but in no mean that is reported, for it was selected."""

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
    weight: float
    """What each of its own tokens counts in the step's loss."""
    foreign: tuple[tuple[int, int], ...] = ()
    """As in its completion: in the context, not in the loss."""
    extra: bool = False
    """Of an extra group."""

    @property
    def own(self) -> list[int]:
        """Places of the tokens that the policy sampled, in ``completion_ids``."""
        written = {place for start, end in self.foreign for place in range(start, end)}
        return [place for place in range(len(self.completion_ids)) if place not in written]


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
