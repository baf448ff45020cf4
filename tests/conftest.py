"""Shared pieces: a tiny random model with a real tokenizer, made once per session."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from grpo.offline import go_offline

from on_card import ON_CARD

go_offline()
if not ON_CARD:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported; processes that tests start must not have it
    import_module("triton.experimental.gluon")
    del os.environ["TRITON_INTERPRET"]

ROOT = Path(__file__).resolve().parent.parent
DEMO_MODEL = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"


def tiny_tokenizer() -> tuple[Any, int]:
    """A byte-level tokenizer with a chat template, and its vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<eos>", "<|user|>", "<|assistant|>", *alphabet])}
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer, len(vocabulary)


def make_tiny_model(directory: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """A two-layer Llama with random weights and a byte-level tokenizer, in Hugging Face format."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer, size = tiny_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,  # spread-out distributions: a flat one would hide most faults
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def python() -> str:
    return sys.executable


REWARD = '''
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": score(s["messages"][-1]["content"])} for s in event]

def score(text):
    """Share of letters: varied enough for a random model to have something to learn."""
    return round(sum(c.isalpha() for c in text) / (len(text) or 1), 3)
'''

CONFIG = """
[run]
dir = "{run}"
steps = {steps}
[model]
path = "{model}"
[data]
train = "{folder}/train.jsonl"
heldout = "{folder}/heldout.jsonl"
test = "{folder}/heldout.jsonl"
max_prompt_tokens = 40
[reward]
file = "{folder}/reward.py"
[rollout]
sampler = "{sampler}"
prompts_per_step = 4
completions_per_prompt = 4
max_tokens = 8
[lora]
rank = 8
[update]
learning_rate = 5e-3
warmup_steps = 1
[evaluate]
every = 3
completions_per_prompt = 2
test_completions_per_prompt = 2
[convergence]
stop = false
"""


@pytest.fixture
def tiny_run(tmp_path: Path, tiny_model: Path):
    """Writes a configuration for the tiny model; returns its path. Same files, another run directory: same numbers."""
    rows = [f'{{"messages": [{{"role": "user", "content": "say {i}"}}], "reference_answer": "{i}"}}' for i in range(12)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:8]) + "\n")
    (tmp_path / "heldout.jsonl").write_text("\n".join(rows[8:]) + "\n")
    (tmp_path / "reward.py").write_text(REWARD)

    def write(name: str, *, sampler: str = "transformers", steps: int = 6, model: Path = tiny_model) -> Path:
        path = tmp_path / f"{name}.toml"
        values = {"run": tmp_path / name, "steps": steps, "model": model, "folder": tmp_path, "sampler": sampler}
        path.write_text(CONFIG.format(**values))
        return path

    return write


@pytest.fixture(scope="session")
def fused():
    """The kernels' Triton form: in Triton's interpreter, or on a GPU where GRPO_TEST_KERNELS asks for it."""
    from interpreter import interpreted_kernels, right_bf16

    from on_card import kernels_on_card

    if ON_CARD:
        yield kernels_on_card()
        return
    with right_bf16():
        yield interpreted_kernels()
