"""Proof that the sampler runs the trainer's policy. Sync is never assumed.

Let g = sampler log-prob - trainer log-prob, one entry per token of a fixed probe. A correct sync keeps g at the noise
of two implementations of the same arithmetic, whatever the adapter; a wrong one shows up as a change of g. So:

* ``establish`` (once, at start): g with the adapter at zero, then with a large random adapter. In fp32 every |g| must
  stay below 1e-4 while the log-probs themselves move by more than 0.1; the change of g is the noise level.
* ``check`` (at each sync): the change of g since the last check, and since the base model, must stay below
  4 * noise + tolerance * (the trainer's own change). A missing module, a wrong scale, yesterday's adapter or a stale
  head makes the sampler's change differ from the trainer's by a share of that change; the smallest visible share,
  4 * noise / change + tolerance, is part of every report.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.attention import Form
from grpo.batch import pack
from grpo.errors import SyncError
from grpo.policy import Policy
from grpo.rollout import PROBE_TOKENS, Sampler, Sampling
from grpo.types import Sequence

EXACT = 1e-4
"""Largest |g| allowed in fp32, nats; measured 3e-5 at most on SmolLM2-135M."""
LARGE_CHANGE = 0.1
"""The probe adapter must move the log-probs by this much (rms, nats), else the proof would show nothing."""
PROBE_SCALE = {"float32": 0.02, "bfloat16": 0.08}
"""Of the probe's B matrices, for rank 16 and alpha 32; other settings get what moves the weights as far. In bf16 two
implementations differ by 0.1 nats whatever the adapter (SmolLM2-135M, rms): the probe must move the log-probs well
beyond that, by 1.1 here, or it proves nothing."""
USUAL_STRENGTH = 32 / 16**0.5
"""Of rank 16 and alpha 32: entries of alpha / rank * B A grow with alpha / sqrt(rank)."""
NOISE_FACTOR = 4.0
TOLERANCE = {"float32": 0.01, "bfloat16": 0.1}
"""Share of the trainer's change by which the sampler's may differ: rounding grows with the change."""
PROBE_PROMPTS, PROBE_COMPLETIONS = 4, 2
"""Two completions share their prompt's row, as in training: were one to see the other, the proof would tell."""

Probe = list[tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What one check saw."""

    residual: float
    """rms of the change of g since the last check, nats."""
    change: float
    """rms of the trainer's own change since the last check, nats."""
    visible: float | None
    """Smallest fault that would have failed, as a share of the change; None where nothing changed."""


@dataclass(frozen=True, slots=True)
class _View:
    trainer: Tensor
    gap: Tensor


class SyncProof:
    """Holds the probe, the noise level and the last view. Made by ``establish``."""

    def __init__(self, policy: Policy, sampler: Sampler, probe: Probe, dtype: str) -> None:
        self.policy = policy
        self.sampler = sampler
        self.probe = probe
        self.tolerance = TOLERANCE[dtype]
        self.noise = 0.0
        self.base = self.last = _View(torch.zeros(0), torch.zeros(0))

    @classmethod
    def establish(cls, policy: Policy, sampler: Sampler, prompts: Seq[Seq[int]], dtype: str, seed: int) -> "SyncProof":
        """Prove the path with a large probe adapter and measure its noise. Leaves policy and sampler as they were.

        Raises SyncError when the sampler's log-probs do not follow.
        """
        saved = policy.adapter_state()
        policy.reset_adapter()
        sampler.sync("base")
        proof = cls(policy, sampler, _draw_probe(sampler, prompts, seed), dtype)
        proof.base = proof._view()
        policy.load_adapter_state(_large_adapter(saved, seed, PROBE_SCALE[dtype] * USUAL_STRENGTH / strength(policy)))
        sampler.sync("probe")
        moved = proof._view()
        proof._judge_start(moved, exact=dtype == "float32")
        if dtype == "float32":
            proof._judge_forms()
        policy.load_adapter_state(saved)
        proof.last = moved
        return proof

    def check(self) -> Agreement:
        """Compare after a sync. Raises SyncError when the sampler's change contradicts the trainer's."""
        now = self._view()
        agreement = self._compare(now, self.last, "since the last sync")
        self._compare(now, self.base, "since the base model")
        self.last = now
        return agreement

    def _judge_start(self, moved: _View, exact: bool) -> None:
        change = _rms(moved.trainer - self.base.trainer)
        if change < LARGE_CHANGE:
            raise SyncError(f"the probe adapter moved the log-probs by {change:.2e} only: nothing would be proved")
        worst = float(torch.cat([self.base.gap.abs(), moved.gap.abs()]).amax())
        self.noise = _rms(moved.gap - self.base.gap)
        if exact and worst > EXACT:
            raise SyncError(
                f"sampler and trainer disagree by up to {worst:.2e} nats in fp32 (allowed {EXACT:.0e}) while the probe "
                f"adapter moves the log-probs by {change:.2e}: {self.sampler.name} does not run the trainer's weights"
            )
        if NOISE_FACTOR * self.noise > change * (0.5 if exact else 0.8):
            raise SyncError(
                f"the sampler does not follow the probe adapter: change {change:.2e}, error {self.noise:.2e}"
            )

    def _judge_forms(self) -> None:
        """Training takes the form of attention that pays for its rows: the proof holds for each, or for none."""
        first, *others = (_trainer_scores(self.policy, self.probe, form) for form in self.policy.forms)
        for other in others:
            worst = float((other - first).abs().amax())
            if worst > EXACT:
                raise SyncError(
                    f"attention by blocks and by rows differ by {worst:.2e} nats in fp32 ({EXACT:.0e} allowed)"
                )

    def _compare(self, now: _View, then: _View, since: str) -> Agreement:
        change, residual = _rms(now.trainer - then.trainer), _rms(now.gap - then.gap)
        floor = NOISE_FACTOR * self.noise
        if not residual <= floor + self.tolerance * change:
            raise SyncError(
                f"{since} the trainer's log-probs changed by {change:.3e} (rms, nats), the sampler's differ from that "
                f"by {residual:.3e}; noise explains {floor:.1e}. {self.sampler.name} does not run the trainer's weights"
            )
        visible = floor / change + self.tolerance if change > 0 else None
        return Agreement(residual=residual, change=change, visible=visible)

    def _view(self) -> _View:
        trainer = _trainer_scores(self.policy, self.probe)
        sampler = torch.tensor([x for row in self.sampler.score(self.probe) for x in row], dtype=torch.float64)
        if not bool(torch.isfinite(sampler).all()):
            raise SyncError(f"{self.sampler.name} returned log-probs that are not finite")
        return _View(trainer, sampler - trainer)


class Proofs:
    """Of every engine that samples."""

    def __init__(self, proofs: Seq[SyncProof]) -> None:
        self.proofs = proofs

    def check(self) -> Agreement:
        """The worst of all engines. Raises SyncError as each does."""
        return max((proof.check() for proof in self.proofs), key=lambda agreement: agreement.residual)


def _draw_probe(sampler: Sampler, prompts: Seq[Seq[int]], seed: int) -> Probe:
    """Completions of the base model: tokens on which the update acts."""
    chosen = prompts[:PROBE_PROMPTS]
    two = Sampling(completions=PROBE_COMPLETIONS, max_tokens=PROBE_TOKENS, temperature=1.0)
    groups = sampler.sample(chosen, two, [seed + i for i in range(len(chosen))])
    return [(tuple(p), c.token_ids) for p, group in zip(chosen, groups, strict=True) for c in group]


def strength(policy: Policy) -> float:
    """How far entries of B of a given size move the weights: alpha / sqrt(rank)."""
    layer = next(iter(policy.lora_layers().values()))
    return float(layer.scaling["default"] * layer.r["default"] ** 0.5)


def _large_adapter(saved: dict[str, Tensor], seed: int, scale: float) -> dict[str, Tensor]:
    """B drawn with this deviation."""
    generator = torch.Generator().manual_seed(seed)
    large = {}
    for name, value in saved.items():
        drawn = torch.randn(value.shape, generator=generator) * scale
        large[name] = drawn.to(value.dtype) if "lora_B" in name else value
    return large


@torch.no_grad()
def _trainer_scores(policy: Policy, probe: Probe, form: Form = "auto") -> Tensor:
    sequences = [
        Sequence(
            group=i // PROBE_COMPLETIONS,
            prompt_ids=p,
            completion_ids=c,
            sampler_logprobs=(0.0,) * len(c),
            advantage=0.0,
            weight=0.0,
        )
        for i, (p, c) in enumerate(probe)
    ]
    parts = [policy.scores_alone(b.to(policy.device), 1.0, form).logprobs for b in pack(sequences, 4096)]
    return torch.cat(parts).double().cpu()


def _rms(values: Tensor) -> float:
    return math.sqrt(float((values.double() ** 2).mean())) if values.numel() else 0.0
