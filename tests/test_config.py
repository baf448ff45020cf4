"""Configuration: what is accepted, what is refused and how it is said; and the frozen list of fields."""

from pathlib import Path

import pytest

from grpo.config import known_keys, load
from grpo.errors import ConfigError

MINIMAL = """
[run]
dir = "runs/x"
[model]
path = "model"
[data]
train = "train.jsonl"
[reward]
file = "reward.py"
"""


@pytest.fixture
def write(tmp_path: Path):
    def to_file(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return to_file


def test_minimal_file_has_defaults(write) -> None:
    config = load(write(MINIMAL))
    assert (config.run.seed, config.convergence.alpha, config.rollout.completions_per_prompt) == (0, 0.05, 8)


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [("[update]\nlearning_rte = 1", "update.learning_rate"), ("[rolout]\nmax_tokens = 3", "rollout")],
)
def test_unknown_key_names_the_nearest(write, line: str, suggestion: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key\. Did you mean {suggestion}\?"):
        load(write(MINIMAL + line))


def test_unknown_key_in_an_override(write) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean run\.steps"):
        load(write(MINIMAL), ["run.step=3"])


def test_overrides_keep_types_and_bare_words(write) -> None:
    config = load(
        write(MINIMAL), ["run.steps=7", "update.learning_rate=1e-3", "run.dir=runs/y", "convergence.stop=false"]
    )
    assert (config.run.steps, config.update.learning_rate, config.run.dir) == (7, 1e-3, Path("runs/y"))
    assert config.convergence.stop is False


@pytest.mark.parametrize("override", ["run.steps", "steps=3", "=3"])
def test_malformed_override(write, override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load(write(MINIMAL), [override])


@pytest.mark.parametrize(
    "override",
    ["run.steps=0", "rollout.temperature=0", "run.steps=ten", "rollout.completions_per_prompt=1", "lora.rank=7"],
)
def test_out_of_range_names_the_field(write, override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.")):
        load(write(MINIMAL), [override])


def test_every_problem_is_listed(write) -> None:
    with pytest.raises(ConfigError, match="2 problem") as caught:
        load(write(MINIMAL), ["run.steps=0", "run.seed=-1"])
    assert "run.steps" in str(caught.value)
    assert "run.seed" in str(caught.value)


def test_prompts_that_do_not_divide_are_refused(write) -> None:
    with pytest.raises(ConfigError, match="some prompts would be dropped"):
        load(write(MINIMAL), ["update.minibatches=3"])


def test_missing_file_and_bad_toml(write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(write("[run"))


def test_digest_ignores_where_and_how_long(write) -> None:
    path = write(MINIMAL)
    assert load(path).digest() == load(path, ["run.dir=elsewhere", "run.steps=9"]).digest()
    assert load(path).digest() != load(path, ["run.seed=1"]).digest()
    linear = ["update.schedule=linear"]
    assert load(path, linear).digest() != load(path, [*linear, "run.steps=9"]).digest()


@pytest.mark.parametrize(
    "path", sorted([*Path("configs").glob("*.toml"), *Path("configs/bench/training").glob("*.toml")]), ids=str
)
def test_shipped_files_load(path: Path) -> None:
    assert load(path).run.dir.parts[0] == "runs"


# Adding a field is a decision: it goes here, into docs/configuration.md, and stays.
FIELDS = [
    "run",
    "run.dir",
    "run.steps",
    "run.seed",
    "run.keep_checkpoints",
    "run.keep_every",
    "run.tensorboard",
    "model",
    "model.path",
    "model.dtype",
    "model.reasoning",
    "model.template",
    "data",
    "data.train",
    "data.heldout",
    "data.test",
    "data.max_prompt_tokens",
    "reward",
    "reward.file",
    "reward.url",
    "reward.function",
    "reward.concurrency",
    "reward.environment",
    "reward.sandbox",
    "reward.network",
    "reward.builtin",
    "reward.options",
    "reward.graders",
    "reward.retries",
    "reward.max_error_share",
    "reward.handler",
    "reward.timeout_s",
    "reward.batch_size",
    "reward.memory_gib",
    "rollout",
    "rollout.sampler",
    "rollout.engines",
    "rollout.shared_dir",
    "rollout.prompts_per_step",
    "rollout.completions_per_prompt",
    "rollout.refill_rounds",
    "rollout.skip_silent",
    "rollout.max_tokens",
    "rollout.temperature",
    "rollout.sync",
    "rollout.engine_memory_gib",
    "rollout.engine_memory_share",
    "rollout.compile",
    "rollout.sleep",
    "rollout.ahead",
    "rollout.tensor_parallel",
    "rollout.timeout_s",
    "rollout.restarts",
    "lora",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "update",
    "update.learning_rate",
    "update.warmup_steps",
    "update.schedule",
    "update.minibatches",
    "update.loss",
    "update.advantages",
    "update.clip_low",
    "update.clip_high",
    "update.importance",
    "update.importance_cap",
    "update.kl_coef",
    "update.kl_estimator",
    "update.mask_truncated",
    "update.overlong_buffer",
    "update.overlong_penalty",
    "update.max_grad_norm",
    "update.tokens_per_microbatch",
    "update.compile",
    "update.gradient_checkpointing",
    "update.shard_base",
    "update.kernels",
    "update.pack_base",
    "evaluate",
    "environment",
    "environment.file",
    "environment.handler",
    "environment.variables",
    "environment.network",
    "environment.max_turns",
    "environment.max_reply_tokens",
    "environment.timeout_s",
    "environment.batch_size",
    "environment.concurrency",
    "environment.memory_gib",
    "environment.sandbox",
    "evaluate.every",
    "evaluate.completions_per_prompt",
    "evaluate.test_completions_per_prompt",
    "convergence",
    "convergence.delta",
    "convergence.alpha",
    "convergence.horizon",
    "convergence.min_steps",
    "convergence.ceiling",
    "convergence.stop",
]


def test_fields_are_frozen() -> None:
    found = [key for key in known_keys() if not key.startswith("reward.graders.")]
    assert sorted(found) == sorted(FIELDS)


def test_every_field_is_documented() -> None:
    text = Path("docs/configuration.md").read_text()
    assert [key for key in FIELDS if "." in key and f"`{key}`" not in text] == []


def test_keys_of_graders_and_deep_overrides(tmp_path: Path) -> None:
    base = '[run]\ndir = "x"\n[model]\npath = "m"\n[data]\ntrain = "t.jsonl"\n'
    path = tmp_path / "c.toml"
    path.write_text(base + '[[reward.graders]]\nname = "a"\nbuiltin = "exact"\nwieght = 2\n')
    with pytest.raises(ConfigError, match=r"wieght: unknown key. Did you mean reward.graders.weight\?"):
        load(path)
    path.write_text(base + '[reward]\nbuiltin = "math"\noptions = { mode = "strict", field = "x" }\n')
    config = load(path, ["reward.options.mode=lenient"])
    assert config.reward.options == {"mode": "lenient", "field": "x"}
    path.write_text(base + '[reward]\nbuiltin = "judge"\nfile = "f.py"\noptions = { api_key = "sk-secret" }\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "sk-secret" not in str(caught.value)


def test_a_new_key_of_the_judge_is_no_new_run(tmp_path: Path) -> None:
    base = '[run]\ndir = "x"\n[model]\npath = "m"\n[data]\ntrain = "t.jsonl"\n[reward]\nbuiltin = "judge"\n'
    path = tmp_path / "c.toml"
    path.write_text(base + 'options = { url = "u", model = "m" }\n')
    digests = {load(path, [f"reward.options.{o}"]).digest() for o in ("api_key=a", "api_key=b", "timeout_s=9")}
    assert len(digests) == 1
    assert load(path, ["reward.options.model=other"]).digest() not in digests


def test_what_a_full_memory_advises_is_no_new_run(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[run]\ndir = "x"\n[model]\npath = "m"\n[data]\ntrain = "t.jsonl"\n[reward]\nbuiltin = "exact"\n')
    advised = ["update.tokens_per_microbatch=512", "update.gradient_checkpointing=true"]
    assert load(path, advised).digest() == load(path).digest()
