"""The sync proof must pass a correct sampler and fail every planted fault.

The sampler here is a second copy of the tiny model that takes the trainer's adapter at each sync, through a hook that
plants the fault. Its scores come from transformers' plain forward, not from the trainer's code.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from grpo.errors import SyncError
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy
from grpo.rollout import Delivery
from grpo.sections import Lora
from grpo.sync import SyncProof

State = dict[str, Tensor]
PROMPTS = [[5 + i, 20, 30 + i] for i in range(8)]


class CopySampler(TransformersSampler):
    """Samples from its own copy of the policy; ``fault`` edits what arrives."""

    name = "copy"

    def __init__(self, trainer: Policy, copy: Policy) -> None:
        super().__init__(copy)
        self.trainer = trainer
        self.fault: Callable[[State], State] = lambda state: state

    def sync(self, version: str) -> Delivery:
        self.policy.load_adapter_state(self.fault(self.trainer.adapter_state()))
        return Delivery(seconds=0.0, modules=len(self.policy.lora_layers()), survived=1.0)


def of_two(tiny_model: Path, lora: Lora) -> tuple[Policy, CopySampler]:
    def policy() -> Policy:
        return Policy.load(tiny_model, dtype="float32", lora=lora, seed=0, temperature=1.0, device=torch.device("cpu"))

    trainer = policy()
    return trainer, CopySampler(trainer, policy())


@pytest.fixture
def pair(tiny_model: Path) -> tuple[Policy, CopySampler]:
    return of_two(tiny_model, Lora(rank=8))


def update(policy: Policy, seed: int, size: float = 3e-3) -> None:
    """A training step's worth of change."""
    generator = torch.Generator().manual_seed(seed)
    state = policy.adapter_state()
    policy.load_adapter_state({n: v + torch.randn(v.shape, generator=generator) * size for n, v in state.items()})


def established(trainer: Policy, sampler: CopySampler) -> SyncProof:
    proof = SyncProof.establish(trainer, sampler, PROMPTS, "float32", seed=0)
    sampler.sync("start")
    proof.check()
    return proof


def test_a_correct_sampler_passes_step_after_step(pair) -> None:
    trainer, sampler = pair
    before = trainer.digest()
    proof = established(trainer, sampler)
    assert trainer.digest() == before
    for step in range(4):
        update(trainer, step)
        sampler.sync(f"step-{step}")
        agreement = proof.check()
        assert agreement.visible is not None
        assert agreement.visible < 0.5, "the check could not have seen a half-scale fault"


@pytest.mark.parametrize(("rank", "alpha"), [(1, 2), (1, 32), (8, 16), (64, 128), (64, 1)])
def test_the_probe_is_as_large_for_every_rank_and_alpha(tiny_model: Path, rank: int, alpha: int) -> None:
    """As for rank 16 and alpha 32, of which rank 1 and alpha 2 with the same B would have a quarter, by
    alpha / sqrt(rank); random matrices differ by some tens of per cent."""
    moved = []
    for lora in (Lora(rank=16, alpha=32), Lora(rank=rank, alpha=alpha)):
        trainer, sampler = of_two(tiny_model, lora)
        proof = SyncProof.establish(trainer, sampler, PROMPTS, "float32", seed=0)
        sampler.sync("start")
        moved.append(proof.check().change)  # from the probe back to the base model
    assert 0.5 < moved[1] / moved[0] < 2.0


def scaled(state: State) -> State:
    return {n: v * 0.5 if "lora_B" in n else v for n, v in state.items()}


def without(module: str) -> Callable[[State], State]:
    return lambda state: {n: torch.zeros_like(v) if module in n and "lora_B" in n else v for n, v in state.items()}


@pytest.mark.parametrize(
    "fault",
    [scaled, without("layers.1.mlp.up_proj"), without("layers.0.self_attn.v_proj")],
    ids=["half scale", "up_proj missing", "v_proj missing"],
)
@pytest.mark.parametrize("when", ["from the start", "later"])
def test_planted_faults_are_seen(pair, fault, when: str) -> None:
    trainer, sampler = pair
    if when == "from the start":
        sampler.fault = fault
        with pytest.raises(SyncError, match="does not run the trainer's weights"):
            established(trainer, sampler)
        return
    proof = established(trainer, sampler)
    sampler.fault = fault
    update(trainer, 1)
    sampler.sync("step-1")
    with pytest.raises(SyncError, match="does not run the trainer's weights"):
        proof.check()


def test_yesterdays_adapter_is_seen(pair) -> None:
    trainer, sampler = pair
    proof = established(trainer, sampler)
    update(trainer, 1)
    yesterday = trainer.adapter_state()
    sampler.sync("step-1")
    proof.check()
    update(trainer, 2)
    sampler.fault = lambda _state: yesterday
    sampler.sync("step-2")
    with pytest.raises(SyncError, match="since the last sync"):
        proof.check()


def test_a_stale_head_is_seen(pair) -> None:
    """As after reloading tied weights: the body is new, the head an older one."""
    trainer, sampler = pair
    proof = established(trainer, sampler)
    with torch.no_grad():
        noise = torch.randn(sampler.policy.head.shape, generator=torch.Generator().manual_seed(0))
        sampler.policy.head.add_(noise * 0.003)
    update(trainer, 1)
    sampler.sync("step-1")
    with pytest.raises(SyncError):
        proof.check()


def test_nan_is_never_agreement(pair) -> None:
    trainer, sampler = pair
    proof = established(trainer, sampler)
    sampler.fault = lambda state: {n: v * float("nan") for n, v in state.items()}
    sampler.sync("step-1")
    with pytest.raises(SyncError):
        proof.check()


def test_an_unchanged_policy_says_that_nothing_could_be_seen(pair) -> None:
    trainer, sampler = pair
    proof = established(trainer, sampler)
    sampler.sync("again")
    assert proof.check().visible is None
