"""Completions of several turns: tokens exact, the environment's outside the loss, failures kept apart."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.advantages import assign
from grpo.batch import pack
from grpo.config import load
from grpo.episodes import Environment, Player
from grpo.errors import ConfigError, ModelError, RewardError
from grpo.hf_sampler import TransformersSampler
from grpo.policy import Policy, load_tokenizer
from grpo.rewards import Pool, event
from grpo.rollout import Sampling
from grpo.runlog import RunLog
from grpo.sections import Environment as Settings
from grpo.sections import Lora, Update
from grpo.types import Completion, Group, Prompt, Reward

import runs

TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "<|assistant|>"
)
COUNTING = '''
def environment_handler(event, context):
    return [answer(s) for s in event]

def answer(sample):
    """Says how many turns there were; odd prompts are done after two."""
    spoken = [m["content"] for m in sample["messages"] if m["role"] == "assistant"]
    number = int(sample["messages"][0]["content"].split()[-1])
    if number % 2 and len(spoken) == 2:
        return {"id": sample["id"], "done": True}
    return {"id": sample["id"], "messages": [{"role": "user", "content": f"{len(spoken)}!"}]}
'''


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a template that ends assistant's turns."""
    path = tmp_path_factory.mktemp("turns") / "model"
    shutil.copytree(tiny_model, path)
    (path / "chat_template.jinja").write_text(TURNS)
    return path


class Scripted:
    """A sampler that says the lines it was given, a list for each call, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, tokenizer: Any, *lines: list[str]) -> None:
        self.tokenizer, self.lines = tokenizer, list(lines)
        self.asked: list[list[list[int]]] = []
        self.seeds: list[list[int]] = []

    def sample(self, prompts, sampling: Sampling, seeds):
        self.asked.append([list(p) for p in prompts])
        self.seeds.append(list(seeds))
        lines = iter(self.lines.pop(0))
        return [[self.said(next(lines)) for _ in range(sampling.completions)] for _ in prompts]

    def said(self, line: str) -> Completion:
        """A line ends with an end-of-sequence token, unless it ends with three dots."""
        cut = line.endswith("...")
        ids = self.tokenizer.encode(line) + ([] if cut else [0])
        logprobs = tuple(-0.5 for _ in ids)
        reason = "length" if cut else "stop"
        return Completion(token_ids=tuple(ids), logprobs=logprobs, text=line, finish_reason=reason)


def environment(tmp_path: Path, model: Path, code: str = COUNTING, **settings) -> Environment:
    (tmp_path / "env.py").write_text(code)
    found = Settings(file=tmp_path / "env.py", sandbox="weak", **settings)
    tokenizer = load_tokenizer(model)
    pool = Pool(found.source(), tmp_path / "environment.log")
    return Environment(
        pool, tokenizer, {0}, turns=found.max_turns, longest=found.max_reply_tokens, template={"unused": 1}
    )


def prompt(model: Path, index: int, tokens: str | None = None) -> Prompt:
    messages = [{"role": "user", "content": f"say {index}"}]
    ids = load_tokenizer(model).apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return Prompt(index=index, messages=tuple(messages), token_ids=tuple(ids), reference_answer="x")


def play(sampler, env: Environment, prompts: list[Prompt], completions: int = 1):
    sampling = Sampling(completions=completions, max_tokens=9, temperature=1.0)
    try:
        groups = Player(sampler, env).collect(prompts, sampling, seed=0, stream=0, step=0)
    finally:
        env.pool.close()
    return [completion for _, group in groups for completion in group]


def test_tokens_are_those_of_the_whole_conversation(tmp_path: Path, model: Path) -> None:
    """Expected: the template applied to all messages at once."""
    env = environment(tmp_path, model, max_turns=3)
    sampler = Scripted(env.tokenizer, ["ab", "cd"], ["ef", "gh"], ["ij"])
    even, odd = play(sampler, env, [prompt(model, 2), prompt(model, 3)])
    said = [*even.turns, even.message]
    assert [m["content"] for m in said] == ["ab", "1!", "ef", "2!", "ij"]
    whole = [{"role": "user", "content": "say 2"}, *said]
    expected = env.tokenizer.apply_chat_template(whole, tokenize=False)
    assert env.tokenizer.decode([*prompt(model, 2).token_ids, *even.token_ids]) + "<|assistant|>" == expected
    assert sampler.asked[2] == [[*prompt(model, 2).token_ids, *even.token_ids[:-3]]]
    assert [m["content"] for m in [*odd.turns, odd.message]] == ["cd", "1!", "gh"], "done after two"
    assert (even.policy_turns, odd.policy_turns) == (3, 2)


def test_the_environments_tokens_are_marked(tmp_path: Path, model: Path) -> None:
    env = environment(tmp_path, model, max_turns=2)
    (found,) = play(Scripted(env.tokenizer, ["ab"], ["ef"]), env, [prompt(model, 2)])
    (span,) = found.foreign
    assert env.tokenizer.decode(found.token_ids[slice(*span)]) == "<|user|>1!<|assistant|>"
    assert [p == 0.0 for p in found.logprobs] == [span[0] <= i < span[1] for i in range(len(found.token_ids))]
    assert found.sampled == 6, "ab, ef and two ends"


def test_seeds_differ_from_turn_to_turn_and_do_not_depend_on_who_goes_on(tmp_path: Path, model: Path) -> None:
    env = environment(tmp_path, model, max_turns=3)
    both = Scripted(env.tokenizer, ["ab", "cd"], ["ef", "gh"], ["ij", "kl"])
    play(both, env, [prompt(model, 2), prompt(model, 4)])
    alone = Scripted(env.tokenizer, ["ab...", "cd"], ["gh"], ["kl"])
    play(alone, environment(tmp_path, model, max_turns=3), [prompt(model, 2), prompt(model, 4)])
    assert alone.seeds[1] == both.seeds[1][1:]
    assert alone.seeds[2] == both.seeds[2][1:]
    assert len({seed for seeds in both.seeds for seed in seeds}) == 6


def test_a_cut_turn_ends_the_episode(tmp_path: Path, model: Path) -> None:
    env = environment(tmp_path, model)
    sampler = Scripted(env.tokenizer, ["ab..."])
    (found,) = play(sampler, env, [prompt(model, 2)])
    assert (found.finish_reason, found.turns, len(sampler.asked)) == ("length", (), 1)


BROKEN = [
    ("raise ValueError('no')", "(?s)environment: .*ValueError: no"),
    ("return []", "environment: no entry with this sample's id"),
    ("return [{'id': s['id']} for s in event]", "environment: expected messages"),
    ("return say('assistant', 'x')", "is not one of user, tool"),
    ("return say('user', 5)", "expected text"),
    ("return say('user', 'x' * 99)", "a reply of 1.. tokens, more than environment.max_reply_tokens = 60"),
]


@pytest.mark.parametrize(("code", "problem"), BROKEN)
def test_a_broken_environment_costs_the_reward(tmp_path: Path, model: Path, code: str, problem: str) -> None:
    said = "[{'id': s['id'], 'messages': [{'role': role, 'content': text}]} for s in event]"
    handler = f"def environment_handler(event, context):\n    say = lambda role, text: {said}\n    {code}\n"
    env = environment(tmp_path, model, handler, max_reply_tokens=60)
    (found,) = play(Scripted(env.tokenizer, ["ab"]), env, [prompt(model, 2)])
    assert re.search(problem, found.error or "")


def test_an_error_does_not_cost_the_neighbours(tmp_path: Path, model: Path) -> None:
    code = COUNTING + "\n_answer = answer\ndef answer(s):\n    assert 'cd' not in str(s)\n    return _answer(s)\n"
    env = environment(tmp_path, model, code, max_turns=2)
    sampler = Scripted(env.tokenizer, ["ab", "cd", "ef"], ["x", "y"])
    found = play(sampler, env, [prompt(model, i) for i in (2, 4, 6)])
    assert [c.error is None for c in found] == [True, False, True]


def test_a_template_that_ends_turns_otherwise_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    """GPT-OSS, for instance, samples another token at its end than its template writes."""
    with pytest.raises(ModelError, match=r"ends an assistant's turn with '<\|user\|>'"):
        environment(tmp_path, tiny_model)


def test_no_handler(tmp_path: Path, model: Path) -> None:
    with pytest.raises(RewardError, match="environment_handler"):
        environment(tmp_path, model, "x = 1\n")


def test_the_grader_sees_the_conversation() -> None:
    turns = ({"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"})
    spoken = Completion(token_ids=(1,), logprobs=(0.0,), text="c", finish_reason="stop", turns=turns)
    asked = Prompt(index=0, messages=({"role": "user", "content": "q"},), token_ids=(1,))
    assert [m["content"] for m in event(asked, spoken, "s")["messages"]] == ["q", "a", "b", "c"]


def test_the_loss_counts_own_tokens_only() -> None:
    """Two completions of 4 and 2 own tokens: dapo gives each token 1/6, grpo 1/8 and 1/4, dr_grpo 1/(2 * 10)."""
    ids = tuple(range(1, 8))
    long = Completion(token_ids=ids, logprobs=(-1.0,) * 7, text="", finish_reason="stop", foreign=((2, 5),))
    short = Completion(token_ids=(1, 2), logprobs=(-1.0,) * 2, text="", finish_reason="stop")
    group = Group(
        prompt=Prompt(index=0, messages=(), token_ids=(1,)),
        completions=(long, short),
        rewards=(Reward(value=1.0), Reward(value=0.0)),
    )
    for loss, weights in (("dapo", [1 / 6, 1 / 6]), ("grpo", [1 / 8, 1 / 4]), ("dr_grpo", [1 / 20, 1 / 20])):
        sequences = assign([group], Update(loss=loss), 10)
        assert [s.weight for s in sequences] == pytest.approx(weights)
        assert sequences[0].own == [0, 1, 5, 6]


def test_trainer_and_sampler_agree_after_a_reply(model: Path) -> None:
    """Log-probabilities of a second turn: the trainer's packed pass against the sampler's dense one, fp32."""
    policy = Policy.load(model, dtype="float32", lora=Lora(rank=8), seed=0, temperature=1.0, device=torch.device("cpu"))
    asked, said = prompt(model, 3).token_ids, tuple(range(10, 20))
    spoken = Completion(token_ids=said, logprobs=(0.0,) * 10, text="", finish_reason="stop", foreign=((3, 6),))
    group = Group(prompt=prompt(model, 3), completions=(spoken, spoken), rewards=(Reward(value=1.0), Reward(value=0.0)))
    (batch,) = pack(assign([group], Update(), 10), 1000)
    with torch.no_grad():
        ours = policy.scores(batch).logprobs.tolist()
    (dense,) = TransformersSampler(policy).score([(asked, said)])
    own = [dense[i] for i in (0, 1, 2, 6, 7, 8, 9)]
    assert ours == pytest.approx(own * 2, abs=1e-4)


def with_environment(config: Path, folder: Path) -> Path:
    (folder / "env.py").write_text(COUNTING)
    table = f'[environment]\nfile = "{folder}/env.py"\nmax_turns = 3\nmax_reply_tokens = 40\n'
    config.write_text(config.read_text() + table)
    return config


@pytest.mark.slow
def test_a_training_in_turns_resumes_as_if_nothing_happened(tiny_run, tmp_path: Path, model: Path) -> None:
    """A random model seldom ends a turn: 20 tokens of 259 give it a chance of 7 % or so, 16 times a step."""
    longer = "rollout.max_tokens=20"
    config = with_environment(tiny_run("whole", steps=5, model=model), tmp_path)
    runs.train(config, longer)
    whole = runs.metrics(tmp_path / "whole")
    assert max(m["turns_mean"] for m in whole) > 1
    assert [m["sampler_gap_max"] < 1e-3 for m in whole] == [True] * 5
    killed = with_environment(tiny_run("killed", steps=5, model=model), tmp_path)
    process = runs.start(killed, longer)
    runs.wait_for_step(process, tmp_path / "killed", 2)
    runs.kill(process)
    runs.train(killed, longer)
    assert json.dumps(runs.metrics(tmp_path / "killed")) == json.dumps(whole)
    log = RunLog(tmp_path / "whole")
    groups = [group for step in range(5) for group in log.load_rollouts(step) or []]
    spoken = [c for group in groups for c in group.completions if c.turns]
    assert {c.turns[1]["content"] for c in spoken} == {"1!"}
    assert all(c.foreign[0][0] < c.foreign[0][1] for c in spoken)


def test_settings_of_an_environment(tiny_run, tmp_path: Path, model: Path) -> None:
    config = load(with_environment(tiny_run("run", model=model), tmp_path))
    assert (config.most_sampled, config.longest_completion) == (24, 24 + 80)
    before = config.digest()
    (tmp_path / "env.py").write_text(COUNTING + "\n")
    assert config.digest() != before
    with pytest.raises(ConfigError, match=r"environment.turns: unknown key. Did you mean environment.max_turns"):
        load(tmp_path / "run.toml", ["environment.turns=3"])


def test_the_documented_environment_works(tmp_path: Path, model: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "environments.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    env = environment(tmp_path, model, code, max_turns=3)
    sampler = Scripted(env.tokenizer, ["<sum>17 25</sum>"], ["42"])
    (found,) = play(sampler, env, [prompt(model, 2)])
    assert [m["content"] for m in [*found.turns, found.message]] == ["<sum>17 25</sum>", "The sum is 42.", "42"]
