"""Answers and reasoning of models that think first; the grader gets the answer alone."""

from pathlib import Path

import pytest

from grpo.config import load
from grpo.reading import Reader, channels, thought
from grpo.rewards import event
from grpo.types import Completion, Prompt

from conftest import tiny_tokenizer

THINK = [
    ("<think>\n1 + 1\n</think>\n\n2", False, ("2", "1 + 1")),
    ("1 + 1\n</think>\n\n2", True, ("2", "1 + 1")),  # the prompt opened the block
    ("<think>\n\n</think>\n\n2", False, ("2", "")),  # thinking switched off
    ("<think>1 + ", False, ("", "1 + ")),  # cut while it thinks
    ("1 + ", True, ("", "1 +")),
    ("2", False, ("2", "")),
    ("<think>a</think>b</think>c", False, ("b</think>c", "a")),
]


@pytest.mark.parametrize(("text", "opened", "expected"), THINK)
def test_think(text: str, opened: bool, expected: tuple[str, str]) -> None:
    answer, reasoning = thought(text, opened)
    assert (answer, reasoning.strip()) == (expected[0], expected[1].strip())


HARMONY = [
    (
        "<|channel|>analysis<|message|>1 + 1<|end|><|start|>assistant<|channel|>final<|message|>2<|return|>",
        ("2", "1 + 1"),
    ),
    ("<|channel|>final<|message|>2", ("2", "")),  # cut within the answer
    ("<|channel|>analysis<|message|>1 + ", ("", "1 +")),
    (
        "<|channel|>analysis<|message|>look it up<|end|><|start|>assistant<|channel|>commentary to=functions.search "
        '<|constrain|>json<|message|>{"q": 1}<|call|>',
        ("", 'look it up\n{"q": 1}'),
    ),
    ("no channel at all", ("", "")),
]


@pytest.mark.parametrize(("raw", "expected"), HARMONY)
def test_harmony(raw: str, expected: tuple[str, str]) -> None:
    assert channels(raw) == expected


def test_the_template_decides() -> None:
    tokenizer, _ = tiny_tokenizer()
    assert Reader.of(tokenizer, "auto", {}).form == "none"
    tokenizer.chat_template = "{{ messages[0].content }}{% if thinking %}<think>\n{% endif %}{# </think> #}"
    assert not Reader.of(tokenizer, "auto", {}).opened
    reader = Reader.of(tokenizer, "auto", {"thinking": True})
    assert (reader.form, reader.opened) == ("think", True)
    assert Reader.of(tokenizer, "none", {}).form == "none"
    tokenizer.chat_template = "{{ messages[0].content }}<|start|>assistant{# <|channel|> #}"
    assert Reader.of(tokenizer, "auto", {}).form == "harmony"


def test_harmony_is_read_from_the_tokens() -> None:
    """Its marks are special tokens, which the plain text lacks: there "analysis" would be a word of the answer."""
    tokenizer, _ = tiny_tokenizer()
    marks = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    raw = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>2<|return|>"
    ids = tokenizer.encode(raw)
    plain = tokenizer.decode(ids, skip_special_tokens=True)
    assert plain == "analysishmassistantfinal2"
    assert Reader(tokenizer, "harmony", False).read(ids, plain) == ("2", "hm")


def test_the_grader_gets_the_answer_and_the_thoughts_beside_it() -> None:
    prompt = Prompt(index=0, messages=({"role": "user", "content": "1 + 1"},), token_ids=(1,))
    fields = {"token_ids": (1,), "logprobs": (0.0,), "finish_reason": "stop"}
    told = event(prompt, Completion(**fields, text="2", reasoning="easy"), "s")
    assert told["messages"][-1] == {"role": "assistant", "content": "2", "reasoning_content": "easy"}
    assert "reasoning_content" not in event(prompt, Completion(**fields, text="2"), "s")["messages"][-1]


def test_template_options_reach_the_prompt(tiny_run, tiny_model: Path) -> None:
    """Of the tokens, not of the text alone: two options, two lengths."""
    from grpo.policy import load_tokenizer
    from grpo.prompts import PromptFile

    config = load(tiny_run("unused"), ["model.template={ effort = 'low' }"])
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ messages[0].content }}{{ effort }}"
    (first, *_) = PromptFile(config.data.train, tokenizer, 40, config.model.template)
    assert len(first.token_ids) == len("say 0low")
