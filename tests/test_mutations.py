"""Planted one-line faults in what decides the numbers; the tests must find every one. Prints how many were found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

ADVANTAGES, LOSS, BATCH, UPDATE = "grpo/advantages.py", "grpo/loss.py", "grpo/batch.py", "grpo/update.py"
DRAWING, EPISODES = "grpo/drawing.py", "grpo/episodes.py"
KERNEL, POLICY, ATTENTION = "kernels/grpo_kernels/logprobs.py", "grpo/policy.py", "grpo/attention.py"
MUTATIONS = [
    (ADVANTAGES, "centred = rewards - rewards.mean()", "centred = rewards.mean() - rewards"),
    (ADVANTAGES, "centred.std(ddof=1)", "centred.std(ddof=0)"),
    (ADVANTAGES, "len(rewards) / (len(rewards) - 1)", "(len(rewards) - 1) / len(rewards)"),
    (ADVANTAGES, "max(values) == min(values):\n        return [0.0]", "False:\n        return [0.0]"),
    (ADVANTAGES, "1.0 / (len(lengths) * length)", "1.0 / length"),
    (ADVANTAGES, "return 1.0 / sum(lengths)", "return 1.0 / len(lengths)"),
    (ADVANTAGES, "len(lengths) * max_tokens", "len(lengths) * length"),
    (ADVANTAGES, 'finish_reason == "length"', 'finish_reason == "stop"'),
    (ADVANTAGES, "return reward.value is not None and", "return"),
    (ADVANTAGES, "[0.0] * len(shaped) if has_no_signal(group) else normalise", "normalise"),
    (ADVANTAGES, "-settings.overlong_penalty * min(1.0", "settings.overlong_penalty * min(1.0"),
    (LOSS, "-torch.minimum(free, held)", "-torch.maximum(free, held)"),
    (LOSS, "-torch.minimum(free, held)", "torch.minimum(free, held)"),
    (LOSS, "1.0 - settings.clip_low, 1.0 + settings.clip_high", "1.0 - settings.clip_high, 1.0 + settings.clip_low"),
    (
        LOSS,
        "gap = inputs.old_logprobs - inputs.sampler_logprobs",
        "gap = inputs.sampler_logprobs - inputs.old_logprobs",
    ),
    (LOSS, ".clamp(max=settings.importance_cap)", ""),
    (LOSS, "inputs.reference_logprobs - inputs.logprobs", "inputs.logprobs - inputs.reference_logprobs"),
    (LOSS, "away.exp() - away - 1.0", "away.exp() + away - 1.0"),
    (LOSS, "0.5 * away.square()", "away.square()"),
    (LOSS, 'if settings.loss == "gspo":', "if False:"),
    (LOSS, "index_add(0, sequence_T, values_T) / counts_S", "index_add(0, sequence_T, values_T)"),
    (LOSS, ".detach().exp()", ".exp()"),
    (LOSS, "ratio.clamp(max=cap)", "ratio.clamp(min=cap)"),
    (BATCH, "start + place - 1 if place else prompt - 1", "start + place"),
    (BATCH, "start + place - 1 if place else prompt - 1", "start + place - 1"),
    (BATCH, "for place in s.own]", "for place in range(len(s.own))]"),
    (BATCH, "attends[part, part] = torch.ones(count, count, dtype=torch.bool).tril()", "attends[part, part] = True"),
    (BATCH, "attends[part, :prompt] = True", "attends[part, :start] = True"),
    (BATCH, "torch.arange(prompt, prompt + count)", "torch.arange(start, start + count)"),
    (UPDATE, "sums.loss * self.config.minibatches", "sums.loss"),
    (UPDATE, "self.optimizer.zero_grad(set_to_none=True)", "pass"),
    (UPDATE, "old_logprobs=scores.logprobs.detach() if old is None else old", "old_logprobs=scores.logprobs.detach()"),
    (UPDATE, "seen += len(batch.target_T)", "pass"),
    (KERNEL, "div_(temperature)", "mul_(temperature)"),
    (KERNEL, "exps.scatter_(1, targets[:, None], 0.0)", "pass"),
    (KERNEL, "(norm * temperature)", "norm"),
    (KERNEL, "norm.log() - moment / norm", "norm.log() + moment / norm"),
    (ATTENTION, "- window < places", "- window <= places"),
    (POLICY, "(weight.float() + delta)", "(weight.float() - delta)"),
    (DRAWING, "(value - candidate.expected) / candidate.chance", "(value - candidate.expected)"),
    (DRAWING, "PRIOR + DISCOUNT * (self.passed - PRIOR)", "DISCOUNT * self.passed"),
    (DRAWING, "chances * (count / chances.sum())", "chances"),
    (EPISODES, "ids = ids[1:]", "pass"),
    (EPISODES, "[*key, turn]", "[*key]"),
    (EPISODES, "foreign=(*completion.foreign, (start, start + len(ids)))", "foreign=completion.foreign"),
]
QUICK = {
    ADVANTAGES: ["tests/test_advantages.py"],
    LOSS: ["tests/test_loss.py"],
    BATCH: ["tests/test_batch.py"],
    UPDATE: ["tests/test_update.py"],
    KERNEL: ["tests/test_token_logprobs.py"],
    ATTENTION: ["tests/test_families.py"],
    POLICY: ["tests/test_policy.py"],
    DRAWING: ["tests/test_drawing.py", "-k", "not training"],
    EPISODES: ["tests/test_episodes.py", "-k", "not training"],
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources and tests where they may be broken; without what other processes brought, which takes time."""
    folder = tmp_path_factory.mktemp("mutants")
    for name in ("grpo", "kernels", "tests", "configs", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def passes(copy: Path, tests: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 0


def test_every_planted_fault_is_found(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(passes(copy, tests) for tests in QUICK.values()), "without a fault they pass"
    survived = []
    for file, old, new in MUTATIONS:
        path = copy / file
        source = path.read_text()
        assert source.count(old) >= 1, f"{file} has no {old!r} any more"
        path.write_text(source.replace(old, new, 1))
        if passes(copy, QUICK[file]):
            survived.append((file, old, new))
        path.write_text(source)
    with capsys.disabled():
        print(f"\n{len(MUTATIONS) - len(survived)} of {len(MUTATIONS)} planted faults found")
    assert survived == []
