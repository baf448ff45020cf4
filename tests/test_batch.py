"""Packing: hand-checked rows, and the shared-prefix forward against the plain one."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grpo.batch import pack
from grpo.policy import Policy
from grpo.sections import Lora
from grpo.types import Sequence


def sequence(group: int, prompt: list[int], completion: list[int], advantage: float = 1.0) -> Sequence:
    return Sequence(
        group=group,
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        sampler_logprobs=tuple(-0.1 * i for i in range(len(completion))),
        advantage=advantage,
        weight=0.1,
    )


def test_one_row_by_hand() -> None:
    (batch,) = pack([sequence(0, [1, 2], [3, 4, 5]), sequence(0, [1, 2], [6], -2.0)], 100)
    assert batch.input_ids_RL.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert batch.positions_RL.tolist() == [[0, 1, 2, 3, 4, 2]]
    assert batch.attends()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],  # the second completion sees the prompt and itself, never the first
    ]
    assert batch.source_T.tolist() == [1, 2, 3, 1]  # each token is predicted by the one before it; first by the prompt
    assert batch.target_T.tolist() == [3, 4, 5, 6]
    assert batch.advantages_S.tolist() == [1.0, -2.0]
    assert batch.offsets_S1.tolist() == [0, 3, 4]


def test_what_an_environment_wrote_is_context_only() -> None:
    """Tokens 4 and 5 are its own: seen by what follows, predicted by nobody."""
    spoken = replace(sequence(0, [1, 2], [3, 4, 5, 6, 7]), foreign=((1, 3),))
    (batch,) = pack([spoken, sequence(0, [1, 2], [8])], 100)
    assert batch.input_ids_RL.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch.attends()[0, 0, 6].int().tolist() == [1, 1, 1, 1, 1, 1, 1, 0]
    assert batch.target_T.tolist() == [3, 6, 7, 8]
    assert batch.source_T.tolist() == [1, 4, 5, 1]
    assert batch.sampler_logprobs_T.tolist() == pytest.approx([0.0, -0.3, -0.4, 0.0])
    assert batch.offsets_S1.tolist() == [0, 3, 4]


def test_token_budget_is_kept_and_nothing_is_lost() -> None:
    sequences = [sequence(g, list(range(1, 4 + g)), [7] * (1 + c)) for g in range(6) for c in range(5)]
    batches = pack(sequences, 40)
    assert all(b.input_ids_RL.numel() <= 40 for b in batches)
    assert sum(len(b.target_T) for b in batches) == sum(len(s.completion_ids) for s in sequences)
    assert len(batches) > 1


def test_an_oversized_sequence_still_gets_its_row() -> None:
    batches = pack([sequence(0, [1] * 50, [2] * 50), sequence(1, [1], [2])], 40)
    assert [len(b.target_T) for b in batches] == [50, 1]


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    policy = Policy.load(
        tiny_model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=0.7, device=torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(1)
    state = {n: torch.randn(v.shape, generator=generator) * 0.1 for n, v in policy.adapter_state().items()}
    policy.load_adapter_state(state)
    return policy


def test_shared_prefix_equals_the_plain_forward(policy: Policy) -> None:
    """Expected values: one sequence a time through transformers' own full-logit forward, softmax in float64."""
    rng = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(3, 250, (n,), generator=rng).tolist()  # noqa: E731
    prompts = [draw(9), draw(4), draw(17)]
    sequences = [sequence(g, p, draw(n)) for g, p in enumerate(prompts) for n in (1, 6, 11)]
    with torch.no_grad():
        scored = [policy.scores(b).logprobs for b in pack(sequences, 120)]
        expected = [_plain(policy, s) for s in sequences]
    torch.testing.assert_close(torch.cat(scored).double(), torch.cat(expected), atol=2e-5, rtol=0)


def _plain(policy: Policy, s: Sequence) -> torch.Tensor:
    ids = torch.tensor([[*s.prompt_ids, *s.completion_ids]])
    logits = policy.model(input_ids=ids).logits[0, len(s.prompt_ids) - 1 : -1].double() / 0.7
    return logits.log_softmax(-1).gather(1, torch.tensor(s.completion_ids)[:, None])[:, 0]


def test_gradient_equals_the_plain_forward(policy: Policy) -> None:
    """Expected values: the plain forward in float64. In fp32 a sum's error follows its largest terms, not its value,
    so the bound is a share of each matrix's largest entry; 1.2e-5 was measured."""
    sequences = [sequence(0, [5, 6, 7], [8, 9]), sequence(0, [5, 6, 7], [10, 11, 12])]
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    (batch,) = pack(sequences, 100)
    parameters = list(policy.adapter_parameters().values())
    packed = torch.autograd.grad((policy.scores(batch).logprobs * weights).sum(), parameters)
    exact = copy.deepcopy(policy.model).double()
    double = Policy(exact, policy.path, policy.tokenizer, policy.temperature)
    plain = torch.cat([_plain(double, s) for s in sequences])
    expected = torch.autograd.grad((plain * weights.double()).sum(), list(double.adapter_parameters().values()))
    for a, b in zip(packed, expected, strict=True):
        torch.testing.assert_close(a.double(), b, atol=4e-5 * float(b.abs().max()), rtol=0)
