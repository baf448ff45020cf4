"""Advantages and policy loss in Triton's interpreter against plain torch in float64 (tested in test_loss.py)."""

import hypothesis
import pytest
import torch
from grpo_kernels import PLAIN, Kernels, LossRule
from hypothesis import strategies as st
from interpreter import guarded, shuffled
from torch import Tensor

FORMS = ("std", "none", "leave_one_out")
KINDS = ("clip", "clip_sequence", "cap")
ESTIMATORS = (None, "k1", "k2", "k3")


@pytest.fixture(params=["plain", "fused"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return PLAIN if request.param == "plain" else request.getfixturevalue("fused")


NAN = float("nan")
# rewards, std form, centred, leave one out, mean, std, silent; by hand
GROUPS = [
    ([0.0, 1.0], [-(0.5**0.5), 0.5**0.5], [-0.5, 0.5], [-1.0, 1.0], 0.5, 0.5**0.5, False),
    ([1.0, 1.0, 1.0], [0, 0, 0], [0, 0, 0], [0, 0, 0], 1.0, 0.0, True),
    ([3.0], [0], [0], [0], 3.0, 0.0, True),
    ([0.0, NAN, 3.0, 6.0], [-1, 0, 0, 1], [-3, 0, 0, 3], [-4.5, 0, 0, 4.5], 3.0, 3.0, False),
    ([], [], [], [], NAN, 0.0, True),
    ([NAN, NAN], [0, 0], [0, 0], [0, 0], NAN, 0.0, True),
    ([1.0, NAN], [0, 0], [0, 0], [0, 0], 1.0, 0.0, True),
]


def flat(rows: list[list[float]]) -> tuple[Tensor, Tensor]:
    offsets = torch.tensor([0, *(len(r) for r in rows)]).cumsum(0)
    return torch.tensor([value for row in rows for value in row], dtype=torch.float32), offsets


@pytest.mark.parametrize("form", FORMS)
def test_groups_by_hand(form: str, kernels: Kernels) -> None:
    groups = GROUPS
    rewards, offsets = flat([g[0] for g in groups])
    stats = kernels.group_advantages(rewards, offsets, form)
    wanted = torch.tensor([a for g in groups for a in g[1 + FORMS.index(form)]], dtype=torch.float32)
    torch.testing.assert_close(stats.advantages, wanted, atol=3e-6, rtol=0)  # EPSILON moves 1 / 0.7 by 2e-6
    torch.testing.assert_close(stats.mean, torch.tensor([g[4] for g in groups]), equal_nan=True)
    torch.testing.assert_close(stats.std, torch.tensor([g[5] for g in groups]))
    assert stats.silent.tolist() == [g[6] for g in groups]


def test_a_signal_is_exact(kernels: Kernels) -> None:
    """One unit in the last place apart is a signal; a level of a million takes no digit from the advantages."""
    near = float(torch.nextafter(torch.tensor(0.3), torch.tensor(1.0)))
    rewards, offsets = flat([[0.3, near], [0.3, 0.3], [1e6, 1e6 + 1.0, 1e6 + 2.0], [1e6] * 3])
    stats = kernels.group_advantages(rewards, offsets, "std")
    assert stats.silent.tolist() == [False, True, False, True]
    assert bool((stats.advantages[[2, 3, 7, 8, 9]] == 0.0).all())
    torch.testing.assert_close(stats.advantages[4:7], torch.tensor([-1.0, 0.0, 1.0]), atol=2e-6, rtol=0)


@hypothesis.settings(max_examples=30, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    rows=st.lists(st.lists(st.floats(-100, 100, width=32) | st.just(NAN), max_size=150), max_size=4),
    form=st.sampled_from(FORMS),
)
def test_any_groups(rows: list[list[float]], form: str, fused: Kernels) -> None:
    rewards, offsets = flat(rows)
    found = fused.group_advantages(rewards, offsets, form)
    right = PLAIN.group_advantages(rewards.double(), offsets, form)
    assert torch.equal(found.silent, right.silent)
    torch.testing.assert_close(found.mean.double(), right.mean, atol=1e-5, rtol=1e-6, equal_nan=True)
    for p in range(len(rows)):
        part = slice(int(offsets[p]), int(offsets[p + 1]))
        # a tiny spread at a high level: centring rounds to 2^-17 of 200, which the division by it makes large
        spread = max(float(right.std[p]), 1e-6) if form == "std" else 1.0
        torch.testing.assert_close(
            found.advantages[part].double(), right.advantages[part], atol=1e-5 + 3e-5 / spread, rtol=1e-4
        )


def tokens(lengths: list[int], seed: int, spread: float = 0.4) -> dict[str, Tensor]:
    """Inputs of a policy loss in float64; log-probabilities of four models near each other."""
    g = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    draw = lambda: torch.randn(count, generator=g, dtype=torch.float64)  # noqa: E731
    logprobs = -draw().abs() - 0.1
    return {
        "logprobs": logprobs,
        "old_logprobs": logprobs + spread * draw(),
        "sampler_logprobs": logprobs + spread * draw(),
        "reference_logprobs": logprobs + spread * draw(),
        "advantages": torch.randn(len(lengths), generator=g, dtype=torch.float64),
        "weights": torch.rand(len(lengths), generator=g, dtype=torch.float64) / max(1, count),
        "offsets": torch.tensor([0, *lengths]).cumsum(0),
    }


def answer(kernels: Kernels, given: dict[str, Tensor], rule: LossRule, dtype: torch.dtype) -> list[Tensor]:
    """Loss and other sums, and the gradient of three times the loss."""
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}
    logprobs = cast.pop("logprobs").requires_grad_()
    if not rule.kl_coef:
        cast["reference_logprobs"] = None
    sums = kernels.policy_loss(logprobs, **cast, rule=rule)
    (3.0 * sums.loss).backward()
    assert logprobs.grad is not None
    return [*(s.detach() for s in sums), logprobs.grad]


def rule_of(kind: str, estimator: str | None) -> LossRule:
    return LossRule(
        kind=kind,
        clip_low=0.2,
        clip_high=0.28,
        importance_cap=1.5,
        kl_coef=0.3 if estimator else 0.0,
        kl_estimator=estimator or "k3",
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_against_plain_torch(kind: str, estimator: str | None, fused: Kernels) -> None:
    """Ragged sequences, an empty one, one longer than a program's block; each sum and the gradient of each token."""
    given, rule = tokens([3, 1, 0, 2500, 17], 5), rule_of(kind, estimator)
    found, right = answer(fused, given, rule, torch.float32), answer(PLAIN, given, rule, torch.float64)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6 * float(theirs.abs().max()), rtol=2e-6)


@hypothesis.settings(max_examples=30, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    lengths=st.lists(st.integers(0, 40), max_size=5),
    kind=st.sampled_from(KINDS),
    estimator=st.sampled_from(ESTIMATORS),
    spread=st.sampled_from([0.0, 0.4, 8.0]),
    seed=st.integers(0, 99),
)
def test_any_tokens(lengths, kind, estimator, spread, seed, fused: Kernels) -> None:
    """With ratios up to e^30, equal models, nothing at all."""
    given, rule = tokens(lengths, seed, spread), rule_of(kind, estimator)
    found, right = answer(fused, given, rule, torch.float32), answer(PLAIN, given, rule, torch.float64)
    largest = float(right[-1].abs().max()) if sum(lengths) else 0.0
    for ours, theirs in zip(found[:1] + found[2:], right[:1] + right[2:], strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4 * largest + 1e-6, rtol=1e-4)
    assert spread == 0.0 or abs(float(found[1]) - float(right[1])) == 0.0
    if not sum(lengths):
        assert [float(v) for v in found[:-1]] == [0.0] * 5


def test_tensors_need_not_be_contiguous(fused: Kernels) -> None:
    given, rule = tokens([3, 5], 5), rule_of("clip", "k3")
    given = {n: v if n == "offsets" else v.float() for n, v in given.items()}  # so that no cast packs them
    spread = {n: v if n == "offsets" else v.repeat_interleave(2)[::2] for n, v in given.items()}
    assert not spread["old_logprobs"].is_contiguous()
    found, right = answer(fused, spread, rule, torch.float32), answer(PLAIN, given, rule, torch.float64)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_program_depends_on_another(kind: str, fused: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, from poisoned memory between bands: the same bits, and nothing outside is touched."""
    given, rule = tokens([5, 0, 1100, 2], 1), rule_of(kind, "k3")
    rewards, offsets = flat([g[0] for g in GROUPS])
    expected = answer(fused, given, rule, torch.float32), fused.group_advantages(rewards, offsets, "std")
    with shuffled(3), guarded(monkeypatch) as guard:
        between = {name: guard.put(value) if value.is_floating_point() else value for name, value in given.items()}
        found = answer(fused, between, rule, torch.float32)
        groups = fused.group_advantages(guard.put(rewards), offsets, "std")
    assert all(torch.equal(a, b) for a, b in zip(found, expected[0], strict=True))
    for a, b in zip(groups, expected[1], strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0, equal_nan=True)
