"""The sampler on transformers' ``generate``: slower, but it runs wherever the trainer does.

It samples from the trainer's own model, so there is nothing to sync. Its scores come from the plain padded forward
pass with full logits, independent of the trainer's shared-prefix path: comparing the two checks that path.
"""

import time
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from grpo.policy import Policy
from grpo.rollout import Delivery, Sampling
from grpo.types import Completion

LOGIT_BYTES = 256 * 2**20


class TransformersSampler:
    """Samples with the policy's own weights."""

    name = "transformers"

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def ready(self) -> None:
        """It is."""

    def sync(self, version: str) -> Delivery:
        """Nothing to do: the weights are the trainer's."""
        started = time.monotonic()
        return Delivery(seconds=time.monotonic() - started, modules=len(self.policy.lora_layers()), survived=1.0)

    def rest(self) -> None:
        """It has no memory of its own."""

    def hold(self, held: bool) -> None:
        """It has no engine that could fail."""

    def close(self) -> None:
        """Nothing to release."""

    @torch.no_grad()
    def sample(self, prompts: Seq[Seq[int]], sampling: Sampling, seeds: Seq[int]) -> list[list[Completion]]:
        """Each group is generated alone under its own seed, so that a group does not depend on its neighbours."""
        return [self._group(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    @torch.no_grad()
    def score(self, sequences: Seq[tuple[Seq[int], Seq[int]]]) -> list[list[float]]:
        """Dense forward passes, temperature 1."""
        return [self._logprobs(prompt, [completion], 1.0)[0] for prompt, completion in sequences]

    def _group(self, prompt: Seq[int], sampling: Sampling, seed: int) -> list[Completion]:
        ids = torch.tensor([list(prompt)], device=self.policy.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = self.policy.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                num_return_sequences=sampling.completions,
                max_new_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.0,
                pad_token_id=self.policy.tokenizer.pad_token_id or self.policy.tokenizer.eos_token_id,
            )
        stops = self.policy.stop_ids()
        answers = [_cut(row[len(prompt) :].tolist(), stops) for row in output]
        logprobs = self._logprobs(prompt, answers, sampling.temperature)
        return [
            self._completion(answer, scores, "stop" if answer and answer[-1] in stops else "length")
            for answer, scores in zip(answers, logprobs, strict=True)
        ]

    def _completion(self, answer: Seq[int], logprobs: Seq[float], reason: str) -> Completion:
        said = self.policy.reader.read(answer, self.policy.tokenizer.decode(answer, skip_special_tokens=True))
        return Completion(
            token_ids=tuple(answer),
            logprobs=tuple(logprobs),
            text=said.answer,
            reasoning=said.reasoning,
            finish_reason=reason,
        )

    def _logprobs(self, prompt: Seq[int], answers: Seq[Seq[int]], temperature: float) -> list[list[float]]:
        """Log-probability of each answer's tokens after the prompt; right padding is behind the causal mask."""
        longest = max(len(answer) for answer in answers)
        rows = torch.zeros(len(answers), len(prompt) + longest, dtype=torch.long)
        for row, answer in zip(rows, answers, strict=True):
            row[: len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        scores: list[list[float]] = []
        vocabulary = self.policy.head.shape[0]
        at_once = max(1, LOGIT_BYTES // (4 * vocabulary * (longest + 1)))
        for start in range(0, len(answers), at_once):
            part = rows[start : start + at_once].to(self.policy.device)
            scores += self._forward(part, longest, temperature).tolist()
        return [row[: len(answer)] for row, answer in zip(scores, answers, strict=True)]

    def _forward(self, rows: Tensor, count: int, temperature: float) -> Tensor:
        logits = self.policy.model(input_ids=rows, logits_to_keep=count + 1, use_cache=False).logits[:, :-1]
        logprobs = (logits.float() / temperature).log_softmax(-1)
        chosen: Tensor = logprobs.gather(2, rows[:, -count:, None])
        return chosen[..., 0]


def _cut(tokens: list[int], stops: set[int]) -> list[int]:
    """Tokens up to and including the first end-of-sequence token."""
    for position, token in enumerate(tokens):
        if token in stops:
            return tokens[: position + 1]
    return tokens
