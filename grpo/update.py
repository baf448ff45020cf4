"""One step's sequences in, one policy update out. Touches: GPU.

How much a token counts in the loss was decided when the step's sequences were made, so no sum here depends on how they
fall into micro-batches and ranks. Groups without signal count in the denominators and cost nothing.
Each rank works on its own share of the groups; adapter gradients are summed over ranks before the clip.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from grpo_kernels import LossSums
from torch import Tensor

from grpo.batch import Batch, pack
from grpo.errors import DeviceMemoryError
from grpo.loss import rule_of
from grpo.policy import Policy
from grpo.sections import Update
from grpo.sharding import most
from grpo.types import Sequence

Result = TypeVar("Result")
FEWEST_TOKENS = 32
"""Below that no pass is tried."""
SUMS = ("loss", "clipped", "kl", "gap", "entropy", "tokens")
MAXIMA = ("gap_max", "grad_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """Means over the tokens that carried a gradient, unless said otherwise."""

    pg_loss: float
    """The step's loss as optimised; with several minibatches their mean."""
    grad_norm: float
    """Before clipping; the largest of the step's minibatches."""
    entropy: float | None
    """None where no token carried a gradient."""
    clip_share: float
    kl: float
    gap_mean: float
    gap_max: float
    learning_rate: float
    tokens_per_microbatch: int
    """As it was on the main rank in the end: less than configured after memory ran out."""
    trained_tokens: int


class Updater:
    """AdamW over the adapter. The optimizer's state is part of every checkpoint."""

    def __init__(self, policy: Policy, config: Update, accelerator: Accelerator, budget: int) -> None:
        self.policy = policy
        self.config = config
        self.accelerator = accelerator
        self.budget = budget
        self.tokens = config.tokens_per_microbatch
        """Of one forward pass; halved when memory runs out."""
        self.optimizer = torch.optim.AdamW(
            policy.adapter_parameters().values(), lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.99)
        )

    def learning_rate(self, step: int) -> float:
        """Of step ``step`` (from 0): linear warm-up, then constant or linear to zero at the budget."""
        rate = self.config.learning_rate * min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        if self.config.schedule == "linear":
            rate *= max(0.0, 1.0 - step / self.budget)
        return rate

    def step(self, sequences: Seq[Sequence], step: int) -> UpdateStats:
        """Update the policy. Every rank passes the same arguments. Without sequences the policy stays as it is."""
        rate = self.learning_rate(step)
        for settings in self.optimizer.param_groups:
            settings["lr"] = rate
        parts = _split(sequences, self.config.minibatches)
        old = [self._within_memory(partial(self._old_logprobs, part)) for part in parts]
        total = _Totals(self.policy.device)
        for part, anchors in zip(parts, old, strict=True):
            if part:
                summed = self._within_memory(partial(self._gradients, part, anchors))
                total.add(summed.reduced(self.accelerator, self._apply()))
        return total.stats(rate, self.tokens)

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
        """This rank's share: whole groups, dealt out in turn. Where the base is split, as many as of any other rank."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        order = {group: i for i, group in enumerate(dict.fromkeys(s.group for s in sequences))}
        mine = [s for s in sequences if order[s.group] % ranks == rank]
        batches = pack(mine, self.tokens)
        if not self.config.shard_base:
            return batches
        nothing = replace(sequences[0], completion_ids=(), sampler_logprobs=(), foreign=(), weight=0.0)
        return batches + pack([nothing], self.tokens) * (most(self.accelerator, len(batches)) - len(batches))

    def _within_memory(self, action: Callable[[], Result]) -> Result:
        """What ``action`` returns. Out of memory, it is done again with half the tokens: it starts from nothing.

        Each rank by itself. Raises DeviceMemoryError where that does not help, and where the base is split: the other
        ranks wait in the middle of a pass then.
        """
        while True:
            try:
                return action()
            except torch.OutOfMemoryError as error:
                if self.config.shard_base or self.tokens < 2 * FEWEST_TOKENS:
                    raise DeviceMemoryError(
                        f"out of memory with update.tokens_per_microbatch = {self.tokens}; lower it, or set "
                        f"update.gradient_checkpointing = true. The step's rollouts are kept. {error}"
                    ) from None
            self.tokens //= 2
            torch.cuda.empty_cache()

    def _old_logprobs(self, sequences: Seq[Sequence]) -> Tensor | None:
        """[T] before the step's first update; with one minibatch the training pass gives them for free."""
        if self.config.minibatches == 1:
            return None
        with torch.no_grad():
            return torch.cat([torch.zeros(0), *(self._scores(batch).cpu() for batch in self._batches(sequences))])

    def _scores(self, batch: Batch) -> Tensor:
        return self.policy.scores(batch.to(self.policy.device)).logprobs

    def _gradients(self, sequences: Seq[Sequence], old: Tensor | None) -> "_Totals":
        """Leave this rank's gradients in the parameters. However the tokens are cut up, they come in the same order."""
        self.optimizer.zero_grad(set_to_none=True)
        total, seen = _Totals(self.policy.device), 0
        with self.policy.recomputing() if self.config.gradient_checkpointing else nullcontext():
            for batch in self._batches(sequences):
                anchors = None if old is None else old[seen : seen + len(batch.target_T)].to(self.policy.device)
                total.add(self._backward(batch.to(self.policy.device), anchors))
                seen += len(batch.target_T)
        return total

    def _apply(self) -> Tensor:
        """Sum gradients over ranks, clip them, move the adapter; the norm before clipping."""
        parameters = list(self.policy.adapter_parameters().values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self.accelerator.reduce(parameter.grad, "sum")
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return norm

    def _backward(self, batch: Batch, old: Tensor | None) -> "_Totals":
        scores = self.policy.scores(batch)
        old = scores.logprobs.detach() if old is None else old
        corrected = self.config.importance == "truncated"
        sums = self.policy.kernels.policy_loss(
            scores.logprobs,
            old,
            batch.sampler_logprobs_T if corrected else old,
            self._reference(batch),
            batch.advantages_S,
            batch.weights_S,
            batch.offsets_S1,
            rule_of(self.config),
        )
        if not corrected:
            gap = (old - batch.sampler_logprobs_T).abs()
            sums = sums._replace(gap=gap.sum(), gap_max=gap.amax() if gap.numel() else gap.new_zeros(()))
        # each of several minibatches is an estimate of the whole step's gradient from its share of the tokens
        (sums.loss * self.config.minibatches).backward()  # type: ignore[no-untyped-call]
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


class _Totals:
    """Running sums of one step's metrics, on the device in float64: reading one would make the CPU wait for the GPU."""

    def __init__(self, device: torch.device, values: dict[str, Tensor] | None = None) -> None:
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self.values = values or dict.fromkeys((*SUMS, *MAXIMA), zero)

    @classmethod
    def of(cls, sums: LossSums, entropy: Tensor) -> "_Totals":
        count = torch.full((), entropy.numel(), dtype=torch.float64, device=entropy.device)
        own = {name: getattr(sums, name).detach().double() for name in ("loss", "clipped", "kl", "gap", "gap_max")}
        norm = torch.zeros_like(count)
        return cls(entropy.device, own | {"entropy": entropy.double().sum(), "tokens": count, "grad_norm": norm})

    def add(self, other: "_Totals") -> None:
        for name in SUMS:
            self.values[name] = self.values[name] + other.values[name]
        for name in MAXIMA:
            self.values[name] = torch.maximum(self.values[name], other.values[name])

    def reduced(self, accelerator: Accelerator, grad_norm: Tensor) -> "_Totals":
        """Over ranks; the gradient norm is already global."""
        self.values["grad_norm"] = grad_norm.detach().double()
        if accelerator.num_processes == 1:
            return self
        gathered: Any = accelerator.gather(torch.stack(list(self.values.values()))[None])
        joined = dict(zip(self.values, zip(gathered.sum(0), gathered.amax(0), strict=True), strict=True))
        return _Totals(
            gathered.device, {name: worst if name in MAXIMA else total for name, (total, worst) in joined.items()}
        )

    def stats(self, rate: float, microbatch: int) -> UpdateStats:
        """The one place where the CPU waits for the numbers."""
        found = dict(zip(self.values, torch.stack(list(self.values.values())).tolist(), strict=True))
        trained = max(1.0, found["tokens"])
        return UpdateStats(
            pg_loss=found["loss"],
            grad_norm=found["grad_norm"],
            entropy=found["entropy"] / found["tokens"] if found["tokens"] else None,
            clip_share=found["clipped"] / trained,
            kl=found["kl"] / trained,
            gap_mean=found["gap"] / trained,
            gap_max=found["gap_max"],
            learning_rate=rate,
            tokens_per_microbatch=microbatch,
            trained_tokens=int(found["tokens"]),
        )
