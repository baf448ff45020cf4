"""Attention by blocks against transformers' own attention on whole rows: values and gradients, every family."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from grpo import blocks
from grpo.attention import seen
from grpo.batch import PADDING, Batch, pack
from grpo.blocks import blocks_of, pays
from grpo.errors import SyncError
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy
from grpo.sections import Lora
from grpo.sync import SyncProof
from grpo.types import Sequence

import families

SHAPES = {0: (21, (5, 1, 9, 3)), 1: (4, (12, 7)), 2: (30, (2,))}
"""Of each group its prompt's length and its completions'; windows of 8 lie within and between them."""


def sequences() -> list[Sequence]:
    """Three rows of different lengths."""
    rng = torch.Generator().manual_seed(0)
    draw = lambda n: tuple(torch.randint(3, 250, (n,), generator=rng).tolist())  # noqa: E731
    rows = []
    for group, (prompt, completions) in SHAPES.items():
        first = Sequence(
            group=group, prompt_ids=draw(prompt), completion_ids=(), sampler_logprobs=(), advantage=1.0, weight=0.1
        )
        rows += [replace(first, completion_ids=draw(n), sampler_logprobs=(-1.0,) * n) for n in completions]
    return rows


def test_where_tokens_are_by_hand() -> None:
    """Row 0: prompt 1 2, completions 3 4 and 5. Row 1: prompt 6, completion 7, three places of padding."""
    one = Sequence(
        group=0, prompt_ids=(1, 2), completion_ids=(3, 4), sampler_logprobs=(0.0,) * 2, advantage=1.0, weight=0.1
    )
    other = replace(one, group=1, prompt_ids=(6,), completion_ids=(7,), sampler_logprobs=(0.0,))
    (packed,) = pack([one, replace(one, completion_ids=(5,), sampler_logprobs=(0.0,)), other], 100)
    assert packed.segments_RL.tolist() == [[0, 0, 1, 1, 2], [0, 1, PADDING, PADDING, PADDING]]
    found = blocks_of(packed)
    assert found.prompt_RP.tolist() == [[0, 1], [5, 5]]
    assert found.completion_RGC.tolist() == [[[2, 3], [4, 0]], [[6, 5], [5, 5]]]
    # a row's blocks lie end to end as two of the prompt, two of each completion
    assert found.place_RL.tolist() == [[0, 1, 2, 3, 4], [6, 8, 0, 0, 0]]
    assert found.length_R.tolist() == [2, 1]
    assert found.size == (2, 2, 2, 2)
    assert found.pairs == 2 * (2 * 2 + 4 * 4)


def test_blocks_pay_where_half_of_the_square_is_left_out() -> None:
    one = Sequence(
        group=0, prompt_ids=(1,) * 10, completion_ids=(2,) * 10, sampler_logprobs=(0.0,) * 10, advantage=1.0, weight=0.1
    )
    (two,), (eight,) = pack([one] * 2, 1000), pack([one] * 8, 1000)
    assert not pays(two, blocks_of(two))  # 100 + 20 x 20 of 900
    assert pays(eight, blocks_of(eight))  # 100 + 80 x 20 of 8100


def _hidden(model, packed: Batch, form: str, dtype: torch.dtype) -> Tensor:
    """Of the tokens, without the padding: what that sees is nobody's business."""
    decoder = model.get_decoder()
    found = decoder(
        input_ids=packed.input_ids_RL,
        position_ids=packed.positions_RL,
        use_cache=False,
        **seen(packed, decoder.config, dtype, form),
    )[0]
    return found[packed.segments_RL != PADDING]


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("form", ["blocks", "rows"])
def test_every_family_equals_its_own_attention(tmp_path: Path, family: str, form: str) -> None:
    """Expected values: the same weights with transformers' own attention and masks for whole rows, in float64.

    GPT-OSS has the eager form alone, and experts without float64: in float32.
    """
    wide = family != "gpt_oss"
    dtype, close, own = (torch.float64, 1e-6, "sdpa") if wide else (torch.float32, 1e-4, "eager")
    path = families.make(family, tmp_path / family)
    policy = Policy.load(path, dtype="float32", lora=Lora(), seed=0, temperature=1.0, device=torch.device("cpu"))
    ours = policy.model.get_base_model().to(dtype)
    with policy.model.disable_adapter():
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=own).eval()
        (packed,) = pack(sequences(), 1000)
        found, expected = _hidden(ours, packed, form, dtype), _hidden(theirs, packed, form, dtype)
        assert ours.config._attn_implementation != theirs.config._attn_implementation
        torch.testing.assert_close(found, expected, atol=close, rtol=close)
        ours.requires_grad_(True)
        weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        (_hidden(ours, packed, form, dtype) * weight).sum().backward()
        (_hidden(theirs, packed, form, dtype) * weight).sum().backward()
    gradients = {n.replace(".base_layer", ""): p.grad for n, p in ours.named_parameters() if "lora" not in n}
    compared = 0
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None and float(parameter.grad.abs().max()) > 0:
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(gradients[name], parameter.grad, atol=close * scale, rtol=0)
            compared += 1
    assert compared > 14


def test_a_row_alone_has_the_numbers_it_has_among_others(tmp_path: Path) -> None:
    """Longer rows beside it add places that nobody sees: equal to rounding in fp32."""
    path = families.make("gemma3", tmp_path / "model")
    policy = Policy.load(path, dtype="float32", lora=Lora(), seed=0, temperature=1.0, device=torch.device("cpu"))
    with torch.no_grad():
        (together,) = pack(sequences(), 1000)
        alone = [pack([s for s in sequences() if s.group == group], 1000)[0] for group in SHAPES]
        assert together.input_ids_RL.shape[1] > alone[1].input_ids_RL.shape[1]
        expected = torch.cat([policy.scores(row, form="blocks").logprobs for row in alone])
        torch.testing.assert_close(policy.scores(together, form="blocks").logprobs, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["_prompts_see", "_completions_see"])
def test_what_sees_too_much_is_refused_at_start(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start-up proof compares both forms."""
    path = families.make("llama", tmp_path / "model")
    policy = Policy.load(path, dtype="float32", lora=Lora(), seed=0, temperature=0.8, device=torch.device("cpu"))
    prompts = [[1, *[70 + i, 90] * 8, 2] for i in range(4)]
    right = getattr(blocks, name)
    monkeypatch.setattr(blocks, name, lambda *given: torch.ones_like(right(*given)))
    with pytest.raises(SyncError, match="by blocks and by rows differ"):
        SyncProof.establish(policy, TransformersSampler(policy), prompts, "float32", seed=0)
