"""token_logprobs against float64 torch with full logits: values, and the gradient per row at every confidence."""

import pytest
import torch
from grpo_kernels import logprobs, token_logprobs


def problem(rows: int, hidden: int, vocabulary: int, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(rows, hidden, generator=g)
    w = torch.randn(vocabulary, hidden, generator=g) * 0.3
    y = torch.randint(0, vocabulary, (rows,), generator=g)
    return h, w, y


def oracle(h, w, y, temperature):
    """Full logits in float64, plain autograd."""
    h = h.double().requires_grad_()
    logp = (h @ w.double().T / temperature).log_softmax(-1)
    chosen = logp.gather(1, y[:, None])[:, 0]
    chosen.sum().backward()
    return chosen.detach(), -(logp.exp() * logp).sum(-1).detach(), h.grad


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.0])
@pytest.mark.parametrize(("rows", "hidden", "vocabulary"), [(7, 16, 50), (1, 576, 1000), (33, 8, 2)])
def test_against_float64(rows: int, hidden: int, vocabulary: int, temperature: float) -> None:
    h, w, y = problem(rows, hidden, vocabulary)
    expected_logp, expected_entropy, expected_grad = oracle(h, w, y, temperature)
    h.requires_grad_()
    logp, entropy = token_logprobs(h, w, y, temperature)
    logp.sum().backward()
    torch.testing.assert_close(logp.detach().double(), expected_logp, atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(h.grad.double(), expected_grad, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.99, 0.999, 1 - 1e-4, 1 - 1e-6])
def test_gradient_does_not_cancel_on_confident_tokens(confidence: float) -> None:
    """W_y - E[W] loses all digits near p_y = 1 when formed as a difference; per row, relative to the row."""
    h, w, y = problem(20, 64, 500, seed=1)
    h = with_confidence(h.double(), w.double(), y, confidence).float()
    _, _, expected = oracle(h, w, y, 1.0)
    h.requires_grad_()
    token_logprobs(h, w, y)[0].sum().backward()
    error = (h.grad.double() - expected).norm(dim=1) / expected.norm(dim=1)
    # fp32 logits of size 30 carry about 2e-6 absolute error, which e^z turns into a relative one
    assert error.max() < 1e-4, error.max()


def with_confidence(h, w, y, confidence):
    """Move each hidden state along its target's row until the target has the wanted probability (bisection)."""
    direction = w[y] / (w[y] ** 2).sum(1, keepdim=True)
    low, high = torch.full((len(y), 1), -200.0).double(), torch.full((len(y), 1), 200.0).double()
    for _ in range(80):
        middle = (low + high) / 2
        p = ((h + middle * direction) @ w.T).softmax(1).gather(1, y[:, None])
        low, high = torch.where(p < confidence, middle, low), torch.where(p < confidence, high, middle)
    return h + low * direction


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    h, w, y = problem(37, 16, 50)
    whole = token_logprobs(h, w, y)
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 4 * 50 * 5)
    for a, b in zip(whole, token_logprobs(h, w, y), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_logits_are_never_materialised() -> None:
    """Peak memory of a forward and backward stays far below one [T, V] matrix."""
    h, w, y = problem(4096, 16, 20000)
    h.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        token_logprobs(h, w, y)[0].sum().backward()
    largest = max(e.self_cpu_memory_usage for e in profile.events())
    assert largest <= logprobs.CHUNK_BYTES + 4 * 20000
    assert 4 * logprobs.CHUNK_BYTES < 4 * 4096 * 20000


def test_empty_and_trainable_head() -> None:
    h, w, y = problem(3, 4, 5)
    assert token_logprobs(h[:0], w, y[:0])[0].shape == (0,)
    with pytest.raises(ValueError, match="frozen head"):
        token_logprobs(h, w.requires_grad_(), y)
