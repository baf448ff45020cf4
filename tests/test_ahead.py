"""Sampling one step ahead: from which weights, after a failure, after a kill, and what becomes of the reward."""

import dataclasses
import json
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from grpo import ahead, engine
from grpo.batch import pack
from grpo.config import Config, load
from grpo.display import Display
from grpo.drawing import Candidate
from grpo.episodes import Player
from grpo.errors import ConfigError, SetupError
from grpo.loop import candidates_of, sampling_next
from grpo.points import Point
from grpo.policy import Policy
from grpo.resources import Main, Resources, Splits
from grpo.runlog import RunLog
from grpo.samplers import choose_sampler
from grpo.sections import Lora
from grpo.types import Group, Prompt, Reward, Sequence
from grpo.vllm_sampler import VllmSampler, adapter_norm

import fake_engine
import runs
from fake_engine import FakeEngine

CPU = torch.device("cpu")


def points(count: int) -> list[Point]:
    """Each looked at five prompts. All 60 have been seen by then, and each step changed what is believed of them."""
    return [
        Point(
            step=i,
            reward=0.5,
            lowest=0.0,
            highest=1.0,
            prompts=tuple(range(60)),
            prompt_rewards=tuple((i + j) % 3 / 2 for j in range(60)),
            visited=5,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("done", [0, 1, 3, 40])
def test_prompts_are_those_that_a_resumed_run_takes(tiny_run, skip: bool, done: int) -> None:
    """While step ``done`` is in training, and when it is over and its rewards are known, too."""
    words = ["rollout.ahead=true", f"rollout.skip_silent={str(skip).lower()}"]
    config = load(tiny_run("unused", sampler="vllm"), words)
    training = [Candidate(index=i) for i in range(5)]
    early = candidates_of(config, points(done), 60, training)
    assert early == candidates_of(config, points(done + 1), 60)
    assert len([c for c in early if c.picked]) == 4
    if not skip:
        plain = load(tiny_run("plain", sampler="vllm"))
        assert early == candidates_of(plain, points(done + 1), 60), "in the same order as without"


@pytest.mark.parametrize("words", [["rollout.sampler=transformers"], ["rollout.sleep=true"]])
def test_what_it_cannot_go_with(tiny_run, words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.ahead needs an engine that samples during updates"):
        load(tiny_run("unused", sampler="vllm"), ["rollout.ahead=true", *words])


def test_without_an_engine_it_is_refused(tiny_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "installed", lambda: None)
    config = load(tiny_run("unused", sampler="auto"), ["rollout.ahead=true"])
    with pytest.raises(SetupError, match=r"rollout\.ahead = true, but vLLM is not installed"):
        choose_sampler(config)


def scored(sampled) -> list[Group]:
    return [Group(prompt=p, completions=c, rewards=(Reward(value=1.0),) * len(c)) for p, c in sampled]


@pytest.fixture
def resources(tiny_run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a run that samples ahead with an engine that pretends; a completion's text names the weights it came from."""
    fake_engine.use(monkeypatch)
    config = load(tiny_run("run", sampler="vllm"), ["rollout.sync=adapter", "rollout.ahead=true", "run.steps=9"])
    policy = Policy.load(tiny_model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=1.0, device=CPU)
    restarts: list[str] = []
    sampler = VllmSampler(config, policy, dtype="bfloat16", log=tmp_path / "log", on_restart=restarts.append)
    prompts = [
        Prompt(index=i, messages=({"role": "user", "content": "?"},), token_ids=(1, 70 + i, 2)) for i in range(60)
    ]
    main = Main(
        player=Player(sampler),
        reward=SimpleNamespace(score=scored, seconds=0.0, slowest=0.0),
        log=RunLog(config.run.dir),
        proof=None,
        sinks=[],
    )
    splits = Splits(train=prompts, heldout=(), test=())
    yield Resources(
        config=config,
        accelerator=None,
        display=Display(quiet=True),
        policy=policy,
        updater=None,
        checkpoints=None,
        splits=splits,
        main=main,
    )
    sampler.close()


def move(policy: Policy, seed: int) -> str:
    """Another adapter; its norm, as the engine names it."""
    generator = torch.Generator().manual_seed(seed)
    state = {n: torch.randn(v.shape, generator=generator) * 0.1 * (1 + seed) for n, v in policy.adapter_state().items()}
    policy.load_adapter_state(state)
    return f"{adapter_norm(policy):.6g}"


def sources(resources: Resources, step: int) -> set[tuple[str, str]]:
    """Weights and version that the saved completions of a step came from."""
    groups = resources.main.log.load_rollouts(step)
    assert [g.prompt.index for g in groups] == [c.index for c in candidates_of(resources.config, points(step), 60)]
    return {tuple(c.text.split("|")[i] for i in (0, 2)) for g in groups for c in g.completions}


def test_it_samples_from_the_weights_of_before(resources: Resources) -> None:
    before = move(resources.policy, 1)
    resources.main.sampler.sync("step-3")
    training = candidates_of(resources.config, points(3), 60)
    with sampling_next(resources, points(3), training):
        after = move(resources.policy, 2)
    assert sources(resources, 4) == {(before, "step-3")}
    assert f"{adapter_norm(resources.policy):.6g}" == after != before
    assert len(FakeEngine.launched) == 1


def test_after_a_failure_the_weights_are_those_of_before(resources: Resources) -> None:
    """The engine dies while the policy moves: nothing is restarted by then, and afterwards from the old weights."""
    before = move(resources.policy, 1)
    sampler = resources.main.sampler
    sampler.sync("step-3")
    training = candidates_of(resources.config, points(3), 60)
    FakeEngine.waits.clear()
    FakeEngine.faults.add("/v1/completions")
    with sampling_next(resources, points(3), training):
        while "/v1/completions" not in FakeEngine.launched[0].calls:
            time.sleep(0.01)
        after = move(resources.policy, 2)
        FakeEngine.waits.set()  # now it fails; started again at once, it would have the new weights
    assert sources(resources, 4) == {(before, "step-3")}
    assert f"{adapter_norm(resources.policy):.6g}" == after


def test_the_last_step_has_no_next(resources: Resources) -> None:
    with sampling_next(resources, points(8), candidates_of(resources.config, points(8), 60)):
        pass
    assert resources.main.log.load_rollouts(9) is None


def test_other_ranks_wait_for_nobody(resources: Resources) -> None:
    with ahead.sampling(dataclasses.replace(resources, main=None), [], 1):
        pass
    assert FakeEngine.launched[0].calls == []


needs_vllm = pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how")


def checkpoint_scores(run: Path, config: Config, groups: list[Group], step: int) -> float:
    """Largest difference between the log-probabilities completions were sampled with and a checkpoint's, in nats."""
    policy = Policy.load(config.model.path, dtype="float32", lora=config.lora, seed=0, temperature=1.0, device=CPU)
    policy.reset_adapter()
    if step:
        saved = load_file(run / "checkpoints" / f"step_{step:06d}" / "trainer.safetensors")
        policy.load_adapter_state({n.removeprefix("adapter/"): v for n, v in saved.items() if n.startswith("adapter/")})
    rows = [
        Sequence(
            group=i,
            prompt_ids=group.prompt.token_ids,
            completion_ids=c.token_ids,
            sampler_logprobs=c.logprobs,
            advantage=0.0,
            weight=0.0,
        )
        for i, group in enumerate(groups)
        for c in group.completions
    ]
    with torch.no_grad():
        away = [(policy.scores(b).logprobs - b.sampler_logprobs_T).abs().max() for b in pack(rows, 4096)]
    return float(torch.stack(away).max())


@pytest.mark.slow
@pytest.mark.engine
@needs_vllm
def test_staleness_is_one_update_and_a_kill_changes_nothing(tiny_run, tmp_path: Path) -> None:
    """Each step's completions have the log-probabilities of the checkpoint before the last; so after two kills."""
    words = ("rollout.ahead=true", "run.keep_every=1", "rollout.temperature=1.0")
    alone, killed = (tiny_run(name, sampler="vllm", steps=6) for name in ("alone", "killed"))
    runs.train(alone, *words)
    rng = random.Random(0)
    for step in (2, 4):
        process = runs.start(killed, *words)
        runs.wait_for_step(process, tmp_path / "killed", step)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None
        runs.kill(process)
    runs.train(killed, *words)
    assert runs.metrics(tmp_path / "killed") == runs.metrics(tmp_path / "alone")
    assert runs.final_state(tmp_path / "killed") == runs.final_state(tmp_path / "alone")
    run, config = tmp_path / "alone", load(alone, list(words))
    log = RunLog(run)
    for step in range(6):
        groups = log.load_rollouts(step)
        from_weights_of = [checkpoint_scores(run, config, groups, max(0, step - lag)) for lag in (0, 1, 2)]
        assert from_weights_of[1] < 1e-3, (step, from_weights_of)
        assert step < 1 or from_weights_of[0] > 1e-2, (step, from_weights_of)
        assert step < 2 or from_weights_of[2] > 1e-2, (step, from_weights_of)


@pytest.mark.slow
@pytest.mark.engine
@needs_vllm
def test_it_learns_as_much(tiny_run, tmp_path: Path) -> None:
    """The reward of the last ten steps, with and without: both far above the first, and equal within what they vary."""
    found = {}
    for name, ahead_or_not in (("with", "true"), ("without", "false")):
        config = tiny_run(name, sampler="vllm", steps=60)
        runs.train(config, f"rollout.ahead={ahead_or_not}", "evaluate.every=60")
        rewards = [m["critic_rewards_mean"] for m in runs.metrics(tmp_path / name)]
        found[name] = rewards
        gain = sum(rewards[-10:]) / 10 - sum(rewards[:5]) / 5
        assert gain > 0.2, (name, rewards)
    means = {name: torch.tensor(rewards[-10:]) for name, rewards in found.items()}
    error = sum(float(m.var()) / len(m) for m in means.values()) ** 0.5
    assert abs(float(means["with"].mean() - means["without"].mean())) < max(3 * error, 0.05), json.dumps(found)
