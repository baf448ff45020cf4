"""The output layer's kernels, plain and in Triton's interpreter, against float64 torch with full logits."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import hypothesis
import pytest
import torch
from grpo_kernels import PLAIN, Kernels, choose, linear_logp_jac, plain_linear
from grpo_kernels.linear import per_token
from grpo_kernels.tiles import tiles_for
from hypothesis import strategies as st
from interpreter import guarded, shuffled
from torch import Tensor

from on_card import ON_CARD

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=["plain", "compiled", "fused", "described"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    """The specification, and as torch compiles it; Triton's form by pointers, or as an H100 runs it, by descriptors in
    16 bits and 32."""
    if request.param == "described":
        described(monkeypatch)
    if request.param in ("plain", "compiled"):
        with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
            yield choose("plain", torch.device("cpu"), compiled=request.param == "compiled")
    else:
        yield request.getfixturevalue("fused")


def described(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo_kernels import fused_linear

    as_on_h100 = lambda head: replace(tiles_for((9, 0), head.element_size()), described=True, flatten=True)  # noqa: E731
    monkeypatch.setattr(fused_linear, "_tiles", as_on_h100)
    monkeypatch.setattr(fused_linear, "_processors", lambda head: 5)  # so that a program takes several tiles,
    monkeypatch.setattr(fused_linear, "SCRATCH", 2**16)  # and that the second product is cut into shares


@pytest.fixture(params=["pointers", "described"])
def triton_form(request: pytest.FixtureRequest, fused: Kernels, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    if request.param == "described":
        described(monkeypatch)
    return fused


class Problem(NamedTuple):
    hidden: Tensor
    head: Tensor
    targets: Tensor


def problem(rows: int, hidden: int, vocabulary: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Problem:
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(rows, hidden, generator=g) * 4 / hidden**0.5
    w = torch.randn(vocabulary, hidden, generator=g)
    return Problem(h.to(dtype), w.to(dtype), torch.randint(0, vocabulary, (rows,), generator=g))


class Answer(NamedTuple):
    logp: Tensor
    entropy: Tensor
    gradient: Tensor
    """Of the sum of logp, which is J."""


def by_torch(p: Problem, temperature: float | Tensor, dtype: torch.dtype = torch.float64) -> Answer:
    """Full logits, plain autograd, in float64 from the same rounded inputs unless another dtype is asked for."""
    h, scale = p.hidden.to(dtype, copy=True).requires_grad_(), torch.as_tensor(temperature).to(dtype)
    logp = (h @ p.head.to(dtype).T / (scale[:, None] if scale.dim() else scale)).log_softmax(-1)
    chosen = logp.gather(1, p.targets[:, None])[:, 0]
    chosen.sum().backward()
    assert h.grad is not None
    return Answer(chosen.detach(), -(logp.exp() * logp).sum(-1).detach(), h.grad)


def by_kernels(p: Problem, temperature: float | Tensor, kernels: Kernels, old: Tensor | None = None) -> Answer:
    h = p.hidden.clone().requires_grad_()
    logp, entropy = linear_logp_jac(h, p.head, p.targets, temperature, old, kernels)
    logp.sum().backward()
    assert h.grad is not None
    return Answer(logp.detach(), entropy, h.grad)


def row_errors(found: Tensor, expected: Tensor) -> Tensor:
    """[T] relative to the row's norm."""
    return (found.double() - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1e-30)


TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 1e-3}
"""Of a row of J: rounding of J and of the exponentials, half a unit in the last place each (2^-9, 2^-12), twice."""

NATS = 1e-5
"""Or three units in the last place of the largest logit, where that is more: from 28 on.

A card's tensor cores cut off a sum of 16-bit products after every 16 of them: a unit each.
"""


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [0.3, "each"])
@pytest.mark.parametrize(("rows", "hidden", "vocabulary"), [(7, 16, 50), (1, 576, 1000), (33, 8, 2), (66, 40, 129)])
def test_against_float64(
    rows: int, hidden: int, vocabulary: int, temperature: float | str, dtype: torch.dtype, kernels: Kernels
) -> None:
    p = problem(rows, hidden, vocabulary, dtype)
    heat = torch.linspace(0.2, 2.0, rows) if temperature == "each" else float(temperature)
    expected, found = by_torch(p, heat), by_kernels(p, heat, kernels)
    with torch.no_grad():
        free = linear_logp_jac(*p, heat, None, kernels)
    largest = (p.hidden.double() @ p.head.double().T).abs().amax(1) / heat
    units = max(3, hidden // 16) if ON_CARD and dtype != torch.float32 else 3
    nats = max(NATS, units * 2**-23 * float(largest.max()))
    for logp, entropy in ((found.logp, found.entropy), free):
        torch.testing.assert_close(logp.double(), expected.logp, atol=nats, rtol=0)
        torch.testing.assert_close(entropy.double(), expected.entropy, atol=nats, rtol=0)
    if vocabulary > 2:
        assert float(row_errors(found.gradient, expected.gradient).max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_row_is_worse_than_torchs_by_more_than_twice(dtype: torch.dtype, kernels: Kernels) -> None:
    """Than torch's own gradient in the same dtype, from logits in that dtype, row by row."""
    p = problem(60, 64, 700, dtype, seed=3)
    expected = by_torch(p, 0.9)
    ours = row_errors(by_kernels(p, 0.9, kernels).gradient, expected.gradient)
    theirs = row_errors(by_torch(p, 0.9, dtype).gradient, expected.gradient)
    floor = {torch.float32: 2e-6, torch.bfloat16: 2e-3, torch.float16: 3e-4}[dtype]  # a unit in J's last place
    assert bool((ours <= 2 * theirs.clamp(min=floor)).all()), (ours / theirs).max()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("confidence", [0.5, 0.99, 0.999, 1 - 1e-4, 1 - 1e-6])
def test_the_gradient_does_not_cancel_on_confident_tokens(
    confidence: float, dtype: torch.dtype, kernels: Kernels
) -> None:
    """W_y - E[W] loses all digits near p_y = 1 when formed as a difference; per row, relative to the row."""
    p = problem(20, 64, 500, seed=1)
    hidden = with_confidence(p.hidden.double(), p.head.to(dtype).double(), p.targets, confidence).to(dtype)
    p = Problem(hidden, p.head.to(dtype), p.targets)
    expected = by_torch(p, 1.0)
    gradient = by_kernels(p, 1.0, kernels).gradient
    found = row_errors(gradient, expected.gradient)
    if dtype == torch.float32:
        # fp32 logits of size 30 carry about 2e-6 absolute error, which e^z turns into a relative one
        assert float(found.max()) < 1e-4
    elif dtype == torch.float16:  # whose own numbers are 2^-24 apart, and J vanishes with 1 - p_y
        apart = (gradient.double() - expected.gradient).norm(dim=1)
        assert bool((apart < TOLERANCE[dtype] * expected.gradient.norm(dim=1) + 2**-25 * 64**0.5).all())
    else:
        assert float(found.max()) < TOLERANCE[dtype]


def with_confidence(h: Tensor, w: Tensor, y: Tensor, confidence: float) -> Tensor:
    """Move each hidden state along its target's row until the target has the wanted probability (bisection)."""
    direction = w[y] / (w[y] ** 2).sum(1, keepdim=True)
    low, high = torch.full((len(y), 1), -200.0).double(), torch.full((len(y), 1), 200.0).double()
    for _ in range(80):
        middle = (low + high) / 2
        p = ((h + middle * direction) @ w.T).softmax(1).gather(1, y[:, None])
        low, high = torch.where(p < confidence, middle, low), torch.where(p < confidence, high, middle)
    return h + low * direction


@pytest.mark.parametrize("dtype", FLOATS)
def test_any_estimate_gives_the_same(dtype: torch.dtype, kernels: Kernels) -> None:
    """Off by up to 300 nats, or no numbers: exponentials over- and underflow, rows are done again."""
    p = problem(12, 32, 300, dtype)
    right = by_torch(p, 0.9)
    off = torch.tensor([0.0, 0.5, -0.5, 5.0, -5.0, 60.0, -60.0, 300.0, -300.0, torch.inf, -torch.inf, torch.nan])
    found = by_kernels(p, 0.9, kernels, right.logp.float() + off)
    exact = by_kernels(p, 0.9, kernels, right.logp.float())
    torch.testing.assert_close(found.logp, exact.logp, atol=4e-6, rtol=0)
    torch.testing.assert_close(found.entropy, exact.entropy, atol=1e-5, rtol=0)
    assert float(row_errors(found.gradient, exact.gradient.double()).max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_logits_are_those_of_a_layer(dtype: torch.dtype, kernels: Kernels) -> None:
    """Of a linear layer in that dtype, as samplers have them; the rest in float64. Some anchors are far off."""
    p = problem(40, 64, 300, dtype, seed=2)
    logits = (p.hidden.float() @ p.head.float().T).to(dtype).double() / 0.7
    logp = logits.log_softmax(1)
    right, entropy = logp.gather(1, p.targets[:, None])[:, 0], -(logp.exp() * logp).sum(1)
    own = torch.nn.functional.one_hot(p.targets, 300).double()
    gradient = (own - logp.exp()) @ p.head.double() / 0.7
    h = p.hidden.clone().requires_grad_()
    old = right.float() + torch.linspace(-60, 60, 40)
    found, found_entropy = linear_logp_jac(h, p.head, p.targets, 0.7, old, kernels, rounded=True)
    found.sum().backward()
    with torch.no_grad():
        free = linear_logp_jac(*p, 0.7, None, kernels, rounded=True)
    assert h.grad is not None
    # sums in another order move a logit that lies on the edge between two 16-bit numbers to its other side: seldom
    unit = {torch.bfloat16: 2**-5, torch.float16: 2**-8}[dtype]
    for logprobs, spread in ((found, found_entropy), free):
        off = (logprobs.double() - right).abs()
        assert float(off.median()) < 1e-5
        assert float(off.max()) < 2 * unit
        assert float((spread.double() - entropy).abs().median()) < 1e-4
    errors = row_errors(h.grad, gradient)
    assert float(errors.median()) < TOLERANCE[dtype]


def test_a_good_estimate_is_all_the_plain_form_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tokens as unlikely as e^-40, too: no row is done again, which would cost a third matmul."""
    monkeypatch.setattr(plain_linear, "_highest", None)
    p = problem(30, 32, 300)
    p = Problem(p.hidden * 8, p.head, p.targets)
    right = by_torch(p, 1.0)
    assert float(right.logp.min()) < -40
    by_kernels(p, 1.0, PLAIN, right.logp.float() + 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_exponentials_keep_their_total(dtype: torch.dtype, kernels: Kernels) -> None:
    """With one other token J = (1 - p_y) (W_y - W_other): its length must not have the error of a single number.

    A rounded exponential is off by up to 2^-9 or 2^-12, 0.58 of that rms; J's own rounding averages out.
    """
    p = problem(200, 256, 2, dtype, seed=5)
    found = by_kernels(Problem(p.hidden * 0.25, p.head, p.targets), 1.0, kernels).gradient.double()
    logp = (p.hidden.double() * 0.25 @ p.head.double().T).log_softmax(1)
    away = p.head.double()[p.targets] - p.head.double()[1 - p.targets]
    expected = 1 - logp.exp().gather(1, p.targets[:, None])[:, 0]
    length = (found * away).sum(1) / away.square().sum(1)
    unit = {torch.bfloat16: 2**-9, torch.float16: 2**-12}[dtype]
    assert float((length / expected - 1).square().mean().sqrt()) < 0.2 * unit


def test_a_row_that_is_no_number_spoils_no_other(kernels: Kernels) -> None:
    p = problem(9, 32, 300)
    p.hidden[4] = torch.nan
    p.hidden[6, 3] = torch.inf
    expected, found = by_torch(problem(9, 32, 300), 1.0), by_kernels(p, 1.0, kernels)
    fine = [0, 1, 2, 3, 5, 7, 8]
    torch.testing.assert_close(found.logp[fine].double(), expected.logp[fine], atol=1e-5, rtol=0)
    assert float(row_errors(found.gradient[fine], expected.gradient[fine]).max()) < 1e-5
    assert bool(found.logp[4].isnan())


@hypothesis.settings(max_examples=15, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    rows=st.sampled_from([0, 1, 2, 63, 64, 65]),
    hidden=st.sampled_from([1, 7, 31, 32, 33, 64]),
    vocabulary=st.sampled_from([1, 2, 63, 64, 65, 200]),
    temperature=st.floats(0.2, 2.0),
    off=st.floats(-60, 60),
    seed=st.integers(0, 9),
)
def test_any_shape(rows, hidden, vocabulary, temperature, off, seed, kernels: Kernels) -> None:
    p = problem(rows, hidden, vocabulary, seed=seed)
    expected = by_torch(p, temperature)
    found = by_kernels(p, temperature, kernels, expected.logp.float() + off)
    torch.testing.assert_close(found.logp.double(), expected.logp, atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(found.entropy.double(), expected.entropy, atol=2e-5, rtol=1e-6)
    scale = p.head.double().norm(dim=1).max() / temperature
    assert rows == 0 or float((found.gradient - expected.gradient).norm(dim=1).max()) < 1e-5 * float(scale)


def test_shards_of_the_vocabulary_add_up(kernels: Kernels) -> None:
    """With common anchors, sums over shards of the head are those over the whole."""
    p = problem(10, 24, 330)
    inverse = per_token(0.8, p.hidden)
    logits = kernels.target_logit(*p, inverse, False)
    anchors = logits + 3.0
    whole = kernels.anchored_sums(*p, inverse, logits, anchors, False)
    parts = []
    for start, end in ((0, 100), (100, 101), (101, 330)):
        mine = torch.where((p.targets >= start) & (p.targets < end), p.targets - start, -1)
        shard = p.head[start:end].contiguous()
        found = kernels.target_logit(p.hidden, shard, mine, inverse, False)
        assert bool((found == torch.where(mine >= 0, logits, 0.0)).all())
        parts.append(kernels.anchored_sums(p.hidden, shard, mine, inverse, logits, anchors, False))
    for name in ("rest", "moment", "stored"):
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(total, getattr(whole, name), atol=1e-6, rtol=1e-5)
    # of terms that cancel; each is as exact as its logit, whose last place is 5e-7 between 4 and 8
    terms = (p.hidden.double() @ p.head.double().T / 0.8 - anchors.double()[:, None]).exp() @ p.head.double().abs()
    off = sum(part.others.sum(0) for part in parts) - whole.others.sum(0)
    assert bool((off.abs() <= 1e-6 * terms).all())


def test_gradients_in_float64() -> None:
    """gradcheck of the plain form; its backward pass is linear in what comes from above, so this covers every loss."""
    h, w, y = problem(5, 6, 11)
    heat = torch.tensor([0.5, 1.0, 1.5, 0.8, 2.0])

    def loss(hidden: Tensor) -> Tensor:
        logp, _ = linear_logp_jac(hidden, w.double(), y, heat, None, PLAIN)
        return (logp * torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])).exp()

    assert torch.autograd.gradcheck(loss, (h.double().requires_grad_(),))


def test_a_trained_head_gets_its_gradient(kernels: Kernels) -> None:
    """By the path that costs more; both gradients against float64."""
    p = problem(600, 12, 40)
    h, w = p.hidden.clone().requires_grad_(), p.head.clone().requires_grad_()
    logp, entropy = linear_logp_jac(h, w, p.targets, 0.7, None, kernels)
    logp.square().sum().backward()
    hd, wd = p.hidden.double().requires_grad_(), p.head.double().requires_grad_()
    everything = (hd @ wd.T / 0.7).log_softmax(1)
    expected = everything.gather(1, p.targets[:, None])[:, 0]
    expected.square().sum().backward()
    torch.testing.assert_close(logp.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy.double(), -(everything.exp() * everything).sum(1), atol=1e-5, rtol=0)
    for ours, theirs in ((h.grad, hd.grad), (w.grad, wd.grad)):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-3, rtol=1e-5)
    assert linear_logp_jac(h[:0], w, p.targets[:0], 1.0, None, kernels)[0].shape == (0,)


def everything(p: Problem, kernels: Kernels) -> list[Tensor]:
    off = torch.where(torch.arange(len(p.hidden)) % 8 == 3, 60.0, 0.5)  # some rows are done again
    with torch.no_grad():
        free = linear_logp_jac(*p, 0.9, None, kernels)
    return [*by_kernels(p, 0.9, kernels, off), *free]


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_program_depends_on_another(
    dtype: torch.dtype, triton_form: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, from poisoned memory between bands: the same bits, and nothing outside is touched."""
    p = problem(70, 40, 200, dtype)
    expected = everything(p, triton_form)
    for seed in range(2):
        with shuffled(seed), guarded(monkeypatch) as guard:
            found = everything(Problem(guard.put(p.hidden), guard.put(p.head), guard.put(p.targets)), triton_form)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_tensors_need_not_be_contiguous(kernels: Kernels) -> None:
    p = problem(20, 24, 90)
    spread = Problem(p.hidden.T.contiguous().T, p.head.T.contiguous().T, p.targets.repeat_interleave(2)[::2])
    assert not spread.hidden.is_contiguous()
    old = torch.linspace(-1.0, 0.0, 40)[::2]
    h = spread.hidden.detach().requires_grad_()
    logp, _ = linear_logp_jac(h, spread.head, spread.targets, 1.0, old, kernels)
    logp.sum().backward()
    expected = by_torch(p, 1.0)
    assert h.grad is not None
    torch.testing.assert_close(logp.double(), expected.logp, atol=1e-5, rtol=0)
    assert float(row_errors(h.grad, expected.gradient).max()) < 1e-5


def test_a_row_does_not_depend_on_its_batch(triton_form: Kernels) -> None:
    """Bit by bit: alone, among others, at another place."""
    p = problem(70, 40, 200, torch.bfloat16)
    whole = by_kernels(p, 0.9, triton_form)
    for rows in ([69], [3, 40], list(range(69, -1, -1))):
        part = by_kernels(Problem(p.hidden[rows], p.head, p.targets[rows]), 0.9, triton_form)
        assert all(torch.equal(a, b[rows]) for a, b in zip(part, whole, strict=True))


def test_chunks_do_not_change_the_result(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(300, 16, 50)
    with torch.no_grad():
        free = linear_logp_jac(*p, 1.0, None, kernels)
    whole = [*by_kernels(p, 1.0, kernels), *free]
    monkeypatch.setattr(plain_linear, "COLUMNS", 7)
    with torch.no_grad():
        free = linear_logp_jac(*p, 1.0, None, kernels)
    cut = [*by_kernels(p, 1.0, replace(kernels, rows_at_once=lambda head: 64)), *free]
    for a, b in zip(cut, whole, strict=True):
        torch.testing.assert_close(a, b, atol=8e-6, rtol=1e-5)  # two units in the last place of logits of 32 and more


def test_logits_are_never_materialised() -> None:
    """The largest piece of a forward and backward pass on a CPU is a tile, not [T, V]."""
    p = problem(4096, 16, 20000)
    h = p.hidden.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_logp_jac(h, p.head, p.targets, 1.0, None, PLAIN)[0].sum().backward()
    largest = max(e.self_cpu_memory_usage for e in profile.events())
    assert largest <= 4 * plain_linear.ROWS * plain_linear.COLUMNS
    assert 10 * largest < 4 * 4096 * 20000


@pytest.mark.slow
def test_a_million_tokens() -> None:
    """2^20 rows go through in pieces; every one is right, by torch in one piece."""
    p = problem(2**20, 4, 8)
    h = p.hidden.requires_grad_()
    logp, entropy = linear_logp_jac(h, p.head, p.targets, 1.0, None, PLAIN)
    logp.sum().backward()
    expected = by_torch(p._replace(hidden=p.hidden.detach()), 1.0)
    torch.testing.assert_close(logp.double(), expected.logp, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy.double(), expected.entropy, atol=1e-5, rtol=0)
    assert h.grad is not None
    torch.testing.assert_close(h.grad.double(), expected.gradient, atol=1e-5, rtol=1e-4)
