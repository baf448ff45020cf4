"""Engines that start while the trainer's own libraries are still being imported. Touches: processes, disk.

On a CPU only: on a card vLLM counts the free memory while it starts, and the trainer must not move meanwhile. An engine
launched here is used where the run asks for exactly its options; one that nobody took is ended.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from grpo import doctor, kept_proof
from grpo.config import Config
from grpo.engine import Engine, EngineOptions, scratch_directory
from grpo.engine_choice import (
    choose_sampler,
    compute_dtype,
    engine_options,
    exact_config,
    proves_beside,
    share_for_proof,
    sync_strategy,
    why_no_proof,
)
from grpo.runlog import in_use
from grpo.sections import OWN

DEVICE = "cpu"


class HeadStart:
    """The engines that were launched early and that nobody has taken yet."""

    def __init__(self, engines: list[Engine]) -> None:
        self._engines = engines

    def take(self, options: EngineOptions) -> Engine | None:
        """The one with these options, which is the caller's to stop then; None where there is none that lives."""
        found = next((engine for engine in self._engines if engine.options == options and engine.alive), None)
        if found:
            self._engines.remove(found)
        return found

    def close(self) -> None:
        """End what is left."""
        while self._engines:
            self._engines.pop().stop()


@contextmanager
def head_start(config: Config) -> Iterator[HeadStart]:
    """Launches what the run will ask for, as far as that is known without looking at the model."""
    early = HeadStart([_launch(config, options) for options in wanted(config)])
    try:
        yield early
    finally:
        early.close()


def wanted(config: Config) -> list[EngineOptions]:
    """The run's own engine and the one that proves its sync in fp32, which comes first where there is no room for both;
    none on other ranks, nor for what is over, nor where the trainer will refuse to start."""
    if os.environ.get("RANK", "0") != "0" or (config.run.dir / "result.json").is_file() or in_use(config.run.dir):
        return []
    if not (config.model.path / "config.json").is_file() or OWN not in config.rollout.engines:
        return []
    if doctor.device() != DEVICE or choose_sampler(config) != "vllm":
        return []
    dtype = compute_dtype(config, DEVICE)
    strategy = sync_strategy(config, dtype, DEVICE)
    if strategy != "merged":
        return []  # an engine with adapters must know the modules they are for
    own = engine_options(config, dtype, DEVICE, strategy, set())
    if dtype == "float32" or kept_proof.Place(config, DEVICE).find():
        return [own]
    try:
        share = share_for_proof(config.model.path, DEVICE)
    except ValueError:  # a config.json that is none: the trainer says so
        return []
    if share is None or why_no_proof(config, share):
        return [own]
    exact = engine_options(exact_config(config, share), "float32", DEVICE, "merged", set())
    return [own, exact] if proves_beside(config, DEVICE) else [exact]


def _launch(config: Config, options: EngineOptions) -> Engine:
    stored = sum(file.stat().st_size for file in config.model.path.glob("*.safetensors"))
    config.run.dir.mkdir(parents=True, exist_ok=True)
    log = config.run.dir / "engine.log"
    engine = Engine(options, scratch_directory(2 * stored), log, config.rollout.timeout_s)
    engine.launch()
    return engine
