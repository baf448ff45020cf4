"""Every end-of-sequence id of a model's generation configuration ends a completion, by both samplers."""

import json
from pathlib import Path

import pytest
import torch

from grpo import engine
from grpo.config import load
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy
from grpo.rollout import Sampler, Sampling
from grpo.sections import Lora
from grpo.vllm_sampler import VllmSampler

from conftest import make_tiny_model

PROMPTS = [[1, 70 + i, 80, 2] for i in range(4)]
SAMPLING = Sampling(completions=8, max_tokens=24, temperature=1.0)
SECOND = set(range(40, 100))
"""Many of the vocabulary's ids, so that most completions meet one."""


def two_ended(folder: Path) -> Policy:
    model = make_tiny_model(folder / "model")
    for name in ("generation_config.json", "config.json"):
        content = json.loads((model / name).read_text()) | {"eos_token_id": [0, *sorted(SECOND)]}
        (model / name).write_text(json.dumps(content))
    return Policy.load(model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=1.0, device=torch.device("cpu"))


def check(sampler: Sampler) -> None:
    """A completion ends at its first such id, which is its last token; one without is cut."""
    completions = [c for group in sampler.sample(PROMPTS, SAMPLING, [1, 2, 3, 4]) for c in group]
    ends = SECOND | {0}
    assert sum(c.token_ids[-1] in SECOND for c in completions) > 16
    for c in completions:
        assert not ends & set(c.token_ids[:-1]), "it went on after its end"
        assert (c.finish_reason == "stop") == (c.token_ids[-1] in ends)
        assert c.finish_reason == "stop" or len(c.token_ids) == 24


def test_transformers(tmp_path: Path) -> None:
    check(TransformersSampler(two_ended(tmp_path)))


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")
def test_vllm(tmp_path: Path, tiny_run) -> None:
    policy = two_ended(tmp_path)
    config = load(tiny_run("unused", sampler="vllm", model=policy.path))
    sampler = VllmSampler(config, policy, dtype="float32", log=tmp_path / "engine.log", on_restart=lambda _: None)
    try:
        check(sampler)
    finally:
        sampler.close()
