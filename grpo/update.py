"""One step's sequences in, one policy update out. Touches: GPU.

The loss is the mean over all completion tokens of the step (DAPO's token-level normaliser, arXiv 2503.14476, section
3.3); its denominator is counted once, over micro-batches and ranks. Groups without signal count in it and cost nothing.
Each rank works on its own share of the groups; adapter gradients are summed over ranks before the clip.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, fields

import torch
from accelerate import Accelerator
from torch import Tensor

from grpo.batch import Batch, pack
from grpo.config import Update
from grpo.loss import LossInputs, LossSums, policy_loss
from grpo.policy import Policy
from grpo.types import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """Means over the tokens that carried a gradient, unless said otherwise."""

    pg_loss: float
    """Mean over all completion tokens of the step, as optimised."""
    grad_norm: float
    """Before clipping; the largest of the step's minibatches."""
    entropy: float | None
    """None where no token carried a gradient."""
    clip_share: float
    kl: float
    gap_mean: float
    gap_max: float
    learning_rate: float
    trained_tokens: int


class Updater:
    """AdamW over the adapter. The optimizer's state is part of every checkpoint."""

    def __init__(self, policy: Policy, config: Update, accelerator: Accelerator, budget: int) -> None:
        self.policy = policy
        self.config = config
        self.accelerator = accelerator
        self.budget = budget
        self.optimizer = torch.optim.AdamW(
            policy.adapter_parameters().values(), lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.99)
        )

    def learning_rate(self, step: int) -> float:
        """Of step ``step`` (from 0): linear warm-up, then constant or linear to zero at the budget."""
        rate = self.config.learning_rate * min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        if self.config.schedule == "linear":
            rate *= max(0.0, 1.0 - step / self.budget)
        return rate

    def step(self, sequences: Seq[Sequence], tokens: int, step: int) -> UpdateStats:
        """Update the policy. ``tokens``: all scored completion tokens of the step, those without signal included.

        Every rank passes the same arguments. Without sequences the policy stays as it is.
        """
        rate = self.learning_rate(step)
        for settings in self.optimizer.param_groups:
            settings["lr"] = rate
        parts = _split(sequences, self.config.minibatches)
        old = [self._old_logprobs(part) for part in parts]
        total = _Totals()
        for part, anchors in zip(parts, old, strict=True):
            if part:
                share = max(1.0, tokens / self.config.minibatches)
                total.add(self._minibatch(part, anchors, share))
        return total.stats(tokens, rate)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Adam's moments and counters as named tensors, for safetensors."""
        state = {}
        for name, parameter in self.policy.adapter_parameters().items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"{key}/{name}"] = value.detach().cpu().clone().contiguous()
        return state

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of ``optimizer_state``."""
        for name, parameter in self.policy.adapter_parameters().items():
            own = {key.split("/", 1)[0]: value for key, value in state.items() if key.split("/", 1)[1] == name}
            if own:
                moved = {k: v.to(parameter.device) if k != "step" else v for k, v in own.items()}
                self.optimizer.state[parameter] = moved

    def _batches(self, sequences: Seq[Sequence]) -> list[Batch]:
        """This rank's share: whole groups, dealt out in turn."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        order = {group: i for i, group in enumerate(dict.fromkeys(s.group for s in sequences))}
        mine = [s for s in sequences if order[s.group] % ranks == rank]
        return pack(mine, self.config.tokens_per_microbatch)

    def _old_logprobs(self, sequences: Seq[Sequence]) -> list[Tensor] | None:
        """Log-probs before the step's first update; with one minibatch the training pass gives them for free."""
        if self.config.minibatches == 1:
            return None
        with torch.no_grad():
            return [self._scores(batch) for batch in self._batches(sequences)]

    def _scores(self, batch: Batch) -> Tensor:
        return self.policy.scores(batch.to(self.policy.device)).logprobs

    def _minibatch(self, sequences: Seq[Sequence], old: list[Tensor] | None, denominator: float) -> "_Totals":
        self.optimizer.zero_grad(set_to_none=True)
        total = _Totals()
        for i, batch in enumerate(self._batches(sequences)):
            total.add(self._backward(batch.to(self.policy.device), old[i] if old else None, denominator))
        parameters = list(self.policy.adapter_parameters().values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self.accelerator.reduce(parameter.grad, "sum")
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return total.reduced(self.accelerator, float(norm))

    def _backward(self, batch: Batch, old: Tensor | None, denominator: float) -> "_Totals":
        scores = self.policy.scores(batch)
        inputs = LossInputs(
            logprobs=scores.logprobs,
            old_logprobs=scores.logprobs.detach() if old is None else old,
            sampler_logprobs=batch.sampler_logprobs_T,
            reference_logprobs=self._reference(batch),
            advantages=batch.advantages_T,
        )
        c = self.config
        sums = policy_loss(
            inputs,
            clip_low=c.clip_low,
            clip_high=c.clip_high,
            importance_cap=c.importance_cap,
            kl_coef=c.kl_coef,
        )
        (sums.loss / denominator).backward()  # type: ignore[no-untyped-call]
        return _Totals.of(sums, scores.entropy)

    def _reference(self, batch: Batch) -> Tensor | None:
        if not self.config.kl_coef:
            return None
        with torch.no_grad(), self.policy.as_reference():
            return self._scores(batch)


def _split(sequences: Seq[Sequence], parts: int) -> list[list[Sequence]]:
    """By prompt, in order, so that a group stays whole."""
    groups = list(dict.fromkeys(s.group for s in sequences))
    part_of = {group: i * parts // max(1, len(groups)) for i, group in enumerate(groups)}
    split: list[list[Sequence]] = [[] for _ in range(parts)]
    for sequence in sequences:
        split[part_of[sequence.group]].append(sequence)
    return split


@dataclass(slots=True)
class _Totals:
    """Running sums of one step's metrics."""

    loss: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0
    gap: float = 0.0
    entropy: float = 0.0
    tokens: float = 0.0
    gap_max: float = 0.0
    grad_norm: float = 0.0

    @classmethod
    def of(cls, sums: LossSums, entropy: Tensor) -> "_Totals":
        values = {name: float(getattr(sums, name).detach()) for name in ("loss", "clipped", "kl", "gap", "gap_max")}
        return cls(**values, entropy=float(entropy.sum()), tokens=entropy.numel())

    def add(self, other: "_Totals") -> None:
        for name in _sums():
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.gap_max = max(self.gap_max, other.gap_max)
        self.grad_norm = max(self.grad_norm, other.grad_norm)

    def reduced(self, accelerator: Accelerator, grad_norm: float) -> "_Totals":
        """Summed over ranks; the gradient norm is already global."""
        if accelerator.num_processes > 1:
            values = torch.tensor(list(asdict(self).values()), dtype=torch.float64, device=accelerator.device)
            gathered = accelerator.gather(values[None])
            joined = dict(zip((f.name for f in fields(self)), gathered.sum(0).tolist(), strict=True))
            joined["gap_max"] = float(gathered[:, list(joined).index("gap_max")].amax())
            return _Totals(**(joined | {"grad_norm": grad_norm}))
        self.grad_norm = grad_norm
        return self

    def stats(self, all_tokens: int, rate: float) -> UpdateStats:
        trained = max(1.0, self.tokens)
        return UpdateStats(
            pg_loss=self.loss / max(1, all_tokens),
            grad_norm=self.grad_norm,
            entropy=self.entropy / self.tokens if self.tokens else None,
            clip_share=self.clipped / trained,
            kl=self.kl / trained,
            gap_mean=self.gap / trained,
            gap_max=self.gap_max,
            learning_rate=rate,
            trained_tokens=int(self.tokens),
        )


def _sums() -> Iterable[str]:
    return ("loss", "clipped", "kl", "gap", "entropy", "tokens")
