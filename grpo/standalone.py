"""Using a model outside a run: score a prompt file, try a grader, chat. Touches: processes, disk."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TextStreamer

from grpo.checkpoint import ADAPTER
from grpo.config import Config
from grpo.display import Display
from grpo.engine_choice import compute_dtype
from grpo.episodes import Player
from grpo.errors import ConfigError, printable
from grpo.evaluate import evaluate
from grpo.manifest import Checkpoint, verify
from grpo.outcome import TEST_STREAM
from grpo.policy import Policy
from grpo.prompts import PromptFile, take
from grpo.rehearsal import Rehearsal, rehearse
from grpo.rewards import RewardFunction
from grpo.rollout import Sampling
from grpo.runlog import RunLog
from grpo.samplers import load_policy, open_player, open_sampler
from grpo.types import Group


class _Printer(TextStreamer):  # type: ignore[misc]
    """Prints tokens as they come, without what could steer the terminal."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        super().on_finalized_text(printable(text), stream_end)


def score_file(
    config: Config, data: Path | None, adapter: Path | None, completions: int, display: Display
) -> dict[str, Any]:
    """Mean reward of a model on a prompt file, as ``evaluate`` gives it, with the means of its prompts."""
    path = data or config.data.test
    if path is None:
        raise ConfigError("the run has no test prompts; name a file with --data")
    policy, dtype = _policy(config, adapter)
    rows = PromptFile(path, policy.tokenizer, config.data.max_prompt_tokens, config.model.template)
    sampling = Sampling(
        completions=completions, max_tokens=config.rollout.max_tokens, temperature=config.rollout.temperature
    )
    with _opened(config, policy, dtype, display) as (player, reward):
        player.sampler.sync("eval")
        with display.status(f"scoring {len(rows)} prompts"):
            result, _ = evaluate(player, reward, rows, sampling, seed=config.run.seed, stream=TEST_STREAM, step=0)
    numbers = asdict(result)
    return {name: numbers[name] for name in ("mean", "low", "high", "n", "errors", "prompt_means")}


def rehearse_run(config: Config, count: int, display: Display) -> tuple[Rehearsal, list[Group]]:
    """The base model on ``count`` training prompts, scored as in training: can GRPO learn from this?"""
    policy, dtype = _policy(config, None)
    rows = PromptFile(config.data.train, policy.tokenizer, config.data.max_prompt_tokens, config.model.template)
    chosen = take(rows, 0, min(count, len(rows)), config.run.seed)
    sampling = Sampling(
        completions=config.rollout.completions_per_prompt,
        max_tokens=config.rollout.max_tokens,
        temperature=config.rollout.temperature,
    )
    with _opened(config, policy, dtype, display) as (player, reward):
        player.sampler.sync("base")
        with display.status(f"sampling {len(chosen)} groups of {sampling.completions}"):
            sampled = player.collect(chosen, sampling, seed=config.run.seed, stream=TEST_STREAM, step=0)
        with display.status("scoring"):
            started = time.monotonic()
            groups = reward.score(sampled)
            seconds = time.monotonic() - started
    return rehearse(groups, seconds, config.rollout.prompts_per_step), groups


@contextmanager
def _opened(config: Config, policy: Policy, dtype: str, display: Display) -> Iterator[tuple[Player, RewardFunction]]:
    """Sampler and reward function as in a run, in a directory that goes with the block."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        log = RunLog(Path(scratch))
        reward = RewardFunction(config.reward, log.directory / "reward.log")
        stack.callback(reward.close)
        sampler = stack.enter_context(open_sampler(config, policy, dtype, log, display))
        yield stack.enter_context(open_player(config, policy, sampler, log.directory)), reward


def open_chat(config: Config, adapter: Path | None, *, temperature: float, max_tokens: int) -> Callable[[str], None]:
    """A function that answers one message, remembers the conversation and prints tokens as they come."""
    policy, _ = _policy(config, adapter)
    streamer = _Printer(policy.tokenizer, skip_prompt=True, skip_special_tokens=True)
    conversation: list[dict[str, str]] = []

    def reply(message: str) -> None:
        conversation.append({"role": "user", "content": message})
        ids = policy.tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True, **config.model.template
        ).to(policy.device)
        sampled = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.no_grad():
            output = policy.model.generate(
                **ids,
                **sampled,
                max_new_tokens=max_tokens,
                streamer=streamer,
                pad_token_id=policy.tokenizer.eos_token_id,
            )
        answer = policy.tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        conversation.append({"role": "assistant", "content": answer})

    return reply


def _policy(config: Config, adapter: Path | None) -> tuple[Policy, str]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(config, device.type)
    eager = config.model_copy(update={"update": config.update.model_copy(update={"compile": False})})
    policy = load_policy(eager, device, dtype)
    if adapter:
        verify(Checkpoint(adapter, 0))
        state = load_file(adapter / "trainer.safetensors")
        policy.load_adapter_state({k.removeprefix(ADAPTER): v for k, v in state.items() if k.startswith(ADAPTER)})
    return policy, dtype
