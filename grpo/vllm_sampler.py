"""The sampler on vLLM: token ids in, token ids and log-probabilities out, over a Unix socket.

Touches: processes, network (a local socket), disk. A dead or hung engine is restarted with the current weights and the
request repeated; requests are seeded, so a repeated one draws the same completions.
"""

import re
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import torch

from grpo.config import Config
from grpo.connection import EngineDown
from grpo.engine import Engine, scratch_directory
from grpo.engine_choice import engine_options, sync_strategy, takes_turns
from grpo.errors import EngineError, SyncError
from grpo.headstart import HeadStart
from grpo.policy import Policy
from grpo.remote_engine import RemoteEngine
from grpo.rollout import Delivery, Sampling
from grpo.sections import OWN
from grpo.types import Completion

# A model's generation_config.json may turn these on; the trainer computes the full distribution.
PLAIN_SAMPLING = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


class VllmSampler:
    """Owns one engine process, or uses one elsewhere; ``policy`` is the trainer's, read at every sync and restart.

    The process is launched at once; ``ready`` before anything is asked of it.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy,
        *,
        dtype: str,
        log: Path,
        on_restart: Callable[[str], None],
        at: str = OWN,
        early: HeadStart | None = None,
    ) -> None:
        """``at``: the URL of an engine that runs already; ``early``: engines that were launched before."""
        self.config = config
        self.url = at
        self.policy = policy
        self.dtype = dtype
        self.log = log
        self.on_restart = on_restart
        self.early = early
        self.device = policy.device.type
        self.strategy = sync_strategy(config, dtype, self.device)
        self.name = f"vllm ({self.strategy})" if at == OWN else f"vllm at {at} ({self.strategy})"
        self.version = "start"
        self.sleeps = takes_turns(config, self.device) and at == OWN
        self._resting = self._held = False
        self.engine = self._launch()

    def ready(self) -> None:
        self.engine.wait()

    def sync(self, version: str) -> Delivery:
        """Bring the trainer's weights to the engine. Raises SyncError when something else arrived."""
        started = time.monotonic()
        self.version = version
        modules, survived = self._persist(self._load)
        return Delivery(seconds=time.monotonic() - started, modules=modules, survived=survived)

    def sample(self, prompts: Seq[Seq[int]], sampling: Sampling, seeds: Seq[int]) -> list[list[Completion]]:
        """One request per prompt, all at once; each returns its whole group."""
        bodies = [
            PLAIN_SAMPLING
            | {
                "prompt": list(prompt),
                "n": sampling.completions,
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "seed": seed,
                "logprobs": 0,
                "return_token_ids": True,
            }
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return [[self._completion(c) for c in answer["choices"]] for answer in self._persist(lambda: self._ask(bodies))]

    def score(self, sequences: Seq[tuple[Seq[int], Seq[int]]]) -> list[list[float]]:
        """Log-probabilities of given completions, read off the prompt's log-probabilities."""
        bodies: list[dict[str, Any]] = [
            {"prompt": [*prompt, *completion], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
            for prompt, completion in sequences
        ]
        answers = self._persist(lambda: self._ask(bodies))
        return [
            _prompt_logprobs(answer["choices"][0]["prompt_logprobs"], len(prompt), completion)
            for answer, (prompt, completion) in zip(answers, sequences, strict=True)
        ]

    def rest(self) -> None:
        """Put the engine to sleep: its weights go to the host's memory, its cache is dropped."""
        if self.sleeps and not self._resting:
            self._persist(lambda: self.engine.post("/sleep?level=1"))
            self._resting = True

    def hold(self, held: bool) -> None:
        self._held = held

    def close(self) -> None:
        self.engine.stop()

    def _persist(self, action: Callable[[], Any]) -> Any:
        """Run ``action``; when the engine is down, restart it and run it again, a bounded number of times."""
        for attempt in range(self.config.rollout.restarts + 1):
            try:
                if attempt:
                    self._restart()
                self._wake()
                return action()
            except EngineDown as error:
                if self._held:
                    raise
                reason = str(error)
                self.on_restart(reason)
        raise EngineError(
            f"the rollout engine failed {self.config.rollout.restarts + 1} times, last: {reason}. See {self.log}; "
            "rollout.timeout_s and rollout.restarts may be raised on resume"
        )

    def _wake(self) -> None:
        """The cache of before the sleep is gone; what is left of it must not be found again."""
        if self._resting:
            torch.cuda.empty_cache()  # the trainer's leftovers, which the engine needs now
            self.engine.post("/wake_up")
            self.engine.post("/reset_prefix_cache")
            self._resting = False

    def _restart(self) -> None:
        self._resting = False
        self.engine.stop()
        try:
            self.engine = self._launch()
            self.engine.wait()
        except EngineError as error:
            raise EngineDown(str(error)) from None  # one attempt of several: memory may not be free yet
        self._load()

    def _launch(self) -> Engine | RemoteEngine:
        if self.url != OWN:
            return RemoteEngine(self.url, self._shared(), self.config.rollout.timeout_s, lambda: self.version)
        targets = {name.rpartition(".")[2] for name in self.policy.lora_layers()}
        options = engine_options(self.config, self.dtype, self.device, self.strategy, targets)
        if self.early and (launched := self.early.take(options)):
            return launched
        engine = Engine(
            options, scratch_directory(self.policy.adapted_bytes()), self.log, self.config.rollout.timeout_s
        )
        engine.launch()
        return engine

    def _shared(self) -> Path:
        """Of this engine alone, in the directory that all machines see."""
        directory = self.config.rollout.shared_dir or self.config.run.dir / "weights"
        return directory.resolve() / re.sub(r"[^A-Za-z0-9.-]+", "-", self.url)

    def _load(self) -> tuple[int, float | None]:
        return self._load_merged() if self.strategy == "merged" else self._load_adapter()

    def _load_merged(self) -> tuple[int, float]:
        directory = self.engine.scratch / "merged"
        directory.mkdir(exist_ok=True)
        survived = self.policy.save_merged(directory / "model.safetensors", self.version)
        answer = self._rpc("load_merged", path=str(directory))
        if answer["version"] != self.version:
            raise SyncError(f"the engine loaded weights of {answer['version']!r}, not of {self.version!r}")
        self.engine.post("/reset_prefix_cache")
        return int(answer["tensors"]), survived

    def _load_adapter(self) -> tuple[int, None]:
        directory = self.engine.scratch / "adapter"
        self.policy.save_adapter(directory)
        self.engine.post(
            "/v1/load_lora_adapter", {"lora_name": "adapter", "lora_path": str(directory), "load_inplace": True}
        )
        answer = self._rpc("describe_adapter")
        expected = adapter_norm(self.policy)
        if answer["modules"] != len(self.policy.lora_layers()):
            raise SyncError(f"the engine bound {answer['modules']} of {len(self.policy.lora_layers())} adapted modules")
        if abs(answer["norm"] - expected) > 0.02 * expected:
            raise SyncError(f"the engine's adapter has squared norm {answer['norm']:.6g}, the trainer's {expected:.6g}")
        self.engine.post("/reset_prefix_cache")
        self._rpc("loaded", version=self.version)
        return int(answer["modules"]), None

    def _completion(self, choice: dict[str, Any]) -> Completion:
        said = self.policy.reader.read(choice["token_ids"], choice["text"])
        return Completion(
            token_ids=tuple(choice["token_ids"]),
            logprobs=tuple(choice["logprobs"]["token_logprobs"]),
            text=said.answer,
            reasoning=said.reasoning,
            finish_reason=choice["finish_reason"],
        )

    def _rpc(self, method: str, **arguments: str) -> dict[str, Any]:
        """Of every worker of the engine; raises SyncError where they do not say the same."""
        answer: dict[str, Any]
        answer, *others = self.engine.post("/collective_rpc", {"method": method, "kwargs": arguments})["results"]
        if any(other != answer for other in others):
            raise SyncError(f"the engine's workers differ after {method}: {[answer, *others]}")
        return answer

    def _ask(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        model = "adapter" if self.strategy == "adapter" else "policy"
        complete = [body | {"model": model, "cache_salt": self.version} for body in bodies]
        return self.engine.complete(complete)


def _prompt_logprobs(entries: list[dict[str, Any] | None], start: int, completion: Seq[int]) -> list[float]:
    scored = entries[start : start + len(completion)]
    return [entry[str(token)]["logprob"] for entry, token in zip(scored, completion, strict=True) if entry]


@torch.no_grad()
def adapter_norm(policy: Policy) -> float:
    """Sum of squares of all B matrices with the scaling folded in, as the engine holds them."""
    total = 0.0
    for layer in policy.lora_layers().values():
        scaled = layer.lora_B["default"].weight.double() * layer.scaling["default"]
        total += float((scaled**2).sum())
    return total
