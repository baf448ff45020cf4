"""Tiny random models of each architecture the engine is made for, with a byte-level tokenizer."""

from pathlib import Path
from typing import Any

from conftest import tiny_tokenizer

COMMON = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
WINDOW = 8
"""Of the layers that see only so far back: shorter than a prompt, so that a mask without it shows."""


def config(family: str, vocab_size: int) -> Any:
    """A transformers configuration of two layers; families with windows get one layer of each kind."""
    import transformers

    common = COMMON | {"vocab_size": vocab_size}
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
    if family == "llama":
        return transformers.LlamaConfig(**common, tie_word_embeddings=False)
    if family == "qwen2":
        return transformers.Qwen2Config(**common, tie_word_embeddings=True)
    if family == "qwen3":
        return transformers.Qwen3Config(**common, tie_word_embeddings=False)
    if family == "gemma3":
        common["initializer_range"] = 0.05  # its embeddings are scaled up: louder ones predict themselves
        return transformers.Gemma3TextConfig(**common, **kinds, query_pre_attn_scalar=32, tie_word_embeddings=True)
    if family == "mistral":
        return transformers.MistralConfig(**common, sliding_window=WINDOW, tie_word_embeddings=False)
    if family == "gpt_oss":
        return transformers.GptOssConfig(
            **common, **kinds, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False
        )
    raise ValueError(family)


FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "gpt_oss")


def make(family: str, directory: Path, seed: int = 0) -> Path:
    """Save a random model of the family in Hugging Face form."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, size = tiny_tokenizer()
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config(family, size)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
