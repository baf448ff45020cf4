"""One update, however it is cut up: micro-batches, packing, recomputation, minibatches, running out of memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from grpo.errors import DeviceMemoryError
from grpo.policy import Policy
from grpo.sections import Lora, Update
from grpo.types import Sequence
from grpo.update import Updater, UpdateStats

from conftest import make_tiny_model

KINDS = ("grpo", "dapo", "dr_grpo", "gspo", "cispo")


def policy_of(model: Path) -> Policy:
    """With an adapter that already does something."""
    policy = Policy.load(model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=0.9, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    state = {n: torch.randn(v.shape, generator=generator) * 0.05 for n, v in policy.adapter_state().items()}
    policy.load_adapter_state(state)
    return policy


def sequences() -> list[Sequence]:
    """Three groups of ragged completions; 24 tokens take part."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda n: tuple(torch.randint(3, 250, (n,), generator=generator).tolist())  # noqa: E731
    prompts = [draw(n) for n in (5, 9, 3)]
    rows = [(g, n) for g in range(3) for n in (1, 2, 5)]
    return [
        Sequence(
            group=g,
            prompt_ids=prompts[g],
            completion_ids=draw(n),
            sampler_logprobs=tuple([-4.0] * n),
            advantage=float(i % 3) - 0.8,
            weight=1 / 24,
        )
        for i, (g, n) in enumerate(rows)
    ]


def more() -> list[Sequence]:
    """A fourth group, of three long completions: 57 tokens."""
    (first, *_) = sequences()
    ids = tuple(range(100, 116))
    fields = {name: getattr(first, name) for name in first.__slots__}
    changed = {"group": 3, "prompt_ids": tuple(range(50, 59)), "completion_ids": ids, "sampler_logprobs": (-4.0,) * 16}
    return [Sequence(**(fields | changed | {"advantage": a})) for a in (-1.0, 0.3, 0.7)]


def updated(model: Path, parts: list[Sequence], **settings: Any) -> tuple[dict[str, torch.Tensor], UpdateStats]:
    """The adapter after one update, and what was reported."""
    policy = policy_of(model)
    config = Update(**({"learning_rate": 1e-2, "warmup_steps": 0, "kl_coef": 0.1} | settings))
    stats = Updater(policy, config, Accelerator(cpu=True), 10).step(parts, 0)
    return policy.adapter_state(), stats


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    """Adam's first step is the gradient's sign times the rate: only near-zero gradients may differ by rounding."""
    for name, value in a.items():
        share = ((value - b[name]).abs() > tolerance).float().mean()
        assert share < 0.002, (name, float(share))


@pytest.mark.parametrize("loss", KINDS)
def test_one_by_one_equals_all_at_once(tiny_model: Path, loss: str) -> None:
    """A budget of 64 tokens makes a micro-batch of each group, 4096 one of all."""
    whole, stats = updated(tiny_model, sequences(), loss=loss, tokens_per_microbatch=4096)
    apart, found = updated(tiny_model, sequences(), loss=loss, tokens_per_microbatch=64)
    same(whole, apart, 1e-5)
    assert found.grad_norm == pytest.approx(stats.grad_norm, rel=1e-4)
    assert found.pg_loss == pytest.approx(stats.pg_loss, rel=1e-4)
    assert found.trained_tokens == stats.trained_tokens == 24


def test_later_minibatches_know_the_policy_of_before_the_first(tiny_model: Path) -> None:
    """Two updates; in the second every token's ratio is to what it was before, in whatever micro-batch it falls."""
    whole, stats = updated(tiny_model, [*sequences(), *more()], minibatches=2, tokens_per_microbatch=4096)
    apart, found = updated(tiny_model, [*sequences(), *more()], minibatches=2, tokens_per_microbatch=64)
    same(whole, apart, 1e-5)
    assert found.clip_share == pytest.approx(stats.clip_share, abs=1e-9)
    assert found.pg_loss == pytest.approx(stats.pg_loss, rel=1e-4)
    assert stats.clip_share > 0, "a rate of 1e-2 moves some tokens beyond the clip"


def test_without_the_importance_weight_the_gap_is_still_told(tiny_model: Path) -> None:
    """The weight is gone from the update, the distance between trainer and sampler not from the metrics."""
    weighted, told = updated(tiny_model, sequences())
    plain, same_told = updated(tiny_model, sequences(), importance="none")
    assert (same_told.gap_mean, same_told.gap_max) == pytest.approx((told.gap_mean, told.gap_max), rel=1e-5)
    assert told.gap_mean > 0.01
    assert any(not torch.equal(weighted[name], plain[name]) for name in weighted)


def test_gradients_do_not_pile_up(tiny_model: Path) -> None:
    """The same sequences twice, at a rate that moves nothing: the same gradient twice."""
    policy = policy_of(tiny_model)
    updater = Updater(policy, Update(learning_rate=1e-30, warmup_steps=0), Accelerator(cpu=True), 10)
    first, second = (updater.step(sequences(), step) for step in range(2))
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-6)


@pytest.mark.parametrize("loss", KINDS)
def test_packed_equals_padded(tiny_model: Path, loss: str) -> None:
    """Without a shared prefix: every completion in a group of its own, padded to the longest."""
    packed, stats = updated(tiny_model, sequences(), loss=loss)
    alone = [
        Sequence(**{name: getattr(s, name) for name in s.__slots__} | {"group": i}) for i, s in enumerate(sequences())
    ]
    padded, found = updated(tiny_model, alone, loss=loss)
    same(packed, padded, 1e-5)
    assert found.grad_norm == pytest.approx(stats.grad_norm, rel=1e-4)


def test_recomputing_changes_nothing(tiny_model: Path) -> None:
    kept, stats = updated(tiny_model, sequences())
    recomputed, found = updated(tiny_model, sequences(), gradient_checkpointing=True)
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)
    assert found == stats


def test_recomputing_is_what_happens(tiny_model: Path) -> None:
    """Each layer runs twice."""
    counts = {}
    for recompute in (False, True):
        policy = policy_of(tiny_model)
        calls = [0]
        first = policy.model.get_base_model().get_decoder().layers[0]

        def count(*_: Any, calls: list[int] = calls) -> None:
            calls[0] += 1

        first.self_attn.register_forward_pre_hook(count)
        config = Update(gradient_checkpointing=recompute, warmup_steps=0)
        Updater(policy, config, Accelerator(cpu=True), 10).step(sequences(), 0)
        counts[recompute] = calls[0]
    assert counts == {False: 1, True: 2}


def test_training_mode_reaches_no_layer(tmp_path: Path) -> None:
    """A base with a dropout is sampled without it, so it is trained without it, recomputing or not."""
    model = make_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"attention_dropout": 0.5}
    (model / "config.json").write_text(json.dumps(config))
    recomputed, _ = updated(model, sequences(), gradient_checkpointing=True)
    plain, _ = updated(model, sequences())
    assert all(torch.equal(recomputed[name], plain[name]) for name in plain)


def test_minibatches_split_by_group(tiny_model: Path) -> None:
    """Three updates, the first on the first group alone: its adapter is that of an update on that group times three."""
    one = [s for s in sequences() if s.group == 0]
    policy = policy_of(tiny_model)
    config = Update(learning_rate=1e-2, warmup_steps=0, minibatches=3, max_grad_norm=1e9)
    updater = Updater(policy, config, Accelerator(cpu=True), 10)
    norms = []
    step = updater.optimizer.step

    def watch() -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in policy.adapter_parameters().values()]).norm()))
        step()

    updater.optimizer.step = watch  # type: ignore[method-assign]
    updater.step(sequences(), 0)
    _, alone = updated(tiny_model, one, kl_coef=0.0, max_grad_norm=1e9)
    assert len(norms) == 3
    assert norms[0] == pytest.approx(3 * alone.grad_norm, rel=1e-4)


class Crowded(Policy):
    """A policy on a device that holds so many tokens."""

    room = 10**9

    def scores(self, batch: Any, temperature: float | None = None) -> Any:
        if batch.input_ids_RL.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().scores(batch, temperature)


@pytest.mark.parametrize(("minibatches", "room"), [(1, 40), (2, 30)])
def test_out_of_memory_halves_and_repeats(tiny_model: Path, minibatches: int, room: int) -> None:
    """A device for 40 tokens, or 30, where three groups make 51 and two 34: halved until every pass fits."""
    settings = {"learning_rate": 1e-2, "warmup_steps": 0, "minibatches": minibatches}
    small, _ = updated(tiny_model, sequences(), kl_coef=0.0, tokens_per_microbatch=64, minibatches=minibatches)
    policy = policy_of(tiny_model)
    policy.__class__ = Crowded
    policy.room = room  # type: ignore[attr-defined]
    updater = Updater(policy, Update(**settings, tokens_per_microbatch=512), Accelerator(cpu=True), 10)
    stats = updater.step(sequences(), 0)
    assert stats.trained_tokens == 24, "what was counted before memory ran out is not counted twice"
    assert stats.tokens_per_microbatch == 32
    same(small, policy.adapter_state(), 1e-5)


def test_what_was_computed_before_memory_ran_out_counts_once(tiny_model: Path) -> None:
    """With 64 tokens the first pass holds three groups, 51 tokens, and fits into 55; the second, 57, does not."""
    parts = [*sequences(), *more()]
    _, stats = updated(tiny_model, parts, kl_coef=0.0, tokens_per_microbatch=4096)
    policy = policy_of(tiny_model)
    policy.__class__ = Crowded
    policy.room = 55  # type: ignore[attr-defined]
    config = Update(learning_rate=1e-2, warmup_steps=0, tokens_per_microbatch=64)
    found = Updater(policy, config, Accelerator(cpu=True), 10).step(parts, 0)
    assert found.tokens_per_microbatch == 32
    assert found.grad_norm == pytest.approx(stats.grad_norm, rel=1e-4)
    assert found.trained_tokens == stats.trained_tokens


def test_an_update_that_never_fits_is_an_error(tiny_model: Path) -> None:
    policy = policy_of(tiny_model)
    before = policy.digest()
    policy.__class__ = Crowded
    policy.room = 3  # type: ignore[attr-defined]
    updater = Updater(policy, Update(), Accelerator(cpu=True), 10)
    with pytest.raises(DeviceMemoryError, match=r"tokens_per_microbatch = 32; lower it, or set update.gradient_check"):
        updater.step(sequences(), 0)
    assert policy.digest() == before
