"""A completion's tokens in, answer and reasoning out. Pure.

Two formats of models that think before they answer:

    think     <think>reasoning</think>answer (Qwen3); some templates open the block in the prompt
    harmony   <|channel|>analysis<|message|>reasoning<|end|><|start|>assistant
              <|channel|>final<|message|>answer<|return|> (GPT-OSS; cookbook.openai.com/articles/openai-harmony)

A reward function gets the answer alone as the message's content. A completion that is cut while it thinks has none.
"""

import re
from collections.abc import Sequence as Seq
from typing import Any, Literal, NamedTuple

Format = Literal["none", "think", "harmony"]
PROBE = [{"role": "user", "content": "?"}]
MESSAGE = re.compile(
    r"<\|channel\|>(?P<channel>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(?P<content>.*?)"
    r"(?=<\|(?:end|return|call|start|channel|endoftext)\|>|$)",
    re.DOTALL,
)


class Reading(NamedTuple):
    """What a completion says, and what was thought before."""

    answer: str
    reasoning: str


class Reader:
    """Reads completions of one model."""

    def __init__(self, tokenizer: Any, form: Format, opened: bool) -> None:
        self.tokenizer = tokenizer
        self.form = form
        self.opened = opened
        """The prompt ends inside the reasoning."""

    @classmethod
    def of(cls, tokenizer: Any, wanted: str, template: dict[str, Any]) -> "Reader":
        """``wanted``: a format, or ``auto``: what the model's chat template shows; ``template``: its options."""
        source = str(tokenizer.chat_template or "")
        shown: Format = "harmony" if "<|channel|>" in source else "think" if "</think>" in source else "none"
        form: Format = shown if wanted == "auto" else wanted  # type: ignore[assignment]
        opened = False
        if form == "think":
            prompt = tokenizer.apply_chat_template(PROBE, add_generation_prompt=True, tokenize=False, **template)
            opened = prompt.rstrip().endswith("<think>")
        return cls(tokenizer, form, opened)

    def read(self, token_ids: Seq[int], text: str) -> Reading:
        """``text``: the tokens without special ones, which is the answer where a model does not think."""
        if self.form == "none":
            return Reading(text, "")
        if self.form == "think":
            return thought(text, self.opened)
        return channels(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))


def thought(text: str, opened: bool) -> Reading:
    """Split at the end of the block; what is not closed is all reasoning."""
    before, closed, after = text.partition("</think>")
    inside = before.strip().removeprefix("<think>").strip()
    if closed:
        return Reading(after.strip(), inside)
    return Reading("", inside) if opened or text.lstrip().startswith("<think>") else Reading(text, "")


def channels(raw: str) -> Reading:
    """The final channel is the answer; the analysis, and comments meant for tools, are the reasoning."""
    messages = [(m["channel"], m["content"].strip()) for m in MESSAGE.finditer(raw)]
    answer = "".join(content for channel, content in messages if channel == "final")
    return Reading(answer, "\n".join(content for channel, content in messages if channel != "final" and content))
