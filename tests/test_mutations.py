"""Planted one-line faults in what decides the numbers; the tests must find every one. Prints how many were found.

A fourth of them with the slow tests, all with ``make faults``.
"""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ADVANTAGES, LOSS, BATCH, UPDATE = "grpo/advantages.py", "grpo/loss.py", "grpo/batch.py", "grpo/update.py"
DRAWING, EPISODES = "grpo/drawing.py", "grpo/episodes.py"
LOOP, AHEAD, VLLM = "grpo/loop.py", "grpo/ahead.py", "grpo/vllm_sampler.py"
POLICY, FOLDING, ADAPTED = (f"grpo/{name}.py" for name in ("policy", "folding", "adapted"))
ATTENTION, BLOCKS = "grpo/attention.py", "grpo/blocks.py"
LINEAR, PLAIN_LINEAR, PLAIN_LOSS, COMPILED = (
    f"kernels/grpo_kernels/{name}.py" for name in ("linear", "plain_linear", "plain_loss", "compiled")
)
TRITON_LINEAR, TRITON_ONLINE, TRITON_ROWS, TRITON_LOSS = (
    f"kernels/grpo_kernels/triton_{name}.py" for name in ("linear", "online", "rows", "loss")
)
MUTATIONS = [
    (ADVANTAGES, "1.0 / (len(lengths) * length)", "1.0 / length"),
    (ADVANTAGES, "return 1.0 / sum(lengths)", "return 1.0 / len(lengths)"),
    (ADVANTAGES, "len(lengths) * max_tokens", "len(lengths) * length"),
    (ADVANTAGES, 'finish_reason == "length"', 'finish_reason == "stop"'),
    (ADVANTAGES, "return reward.value is not None and", "return"),
    (ADVANTAGES, "[0.0] * len(shaped) if has_no_signal(group) else normalise", "normalise"),
    (ADVANTAGES, "-settings.overlong_penalty * min(1.0", "settings.overlong_penalty * min(1.0"),
    (LOSS, '"cispo": "cap"', '"cispo": "clip"'),
    (LOSS, '"gspo": "clip_sequence"', '"gspo": "clip"'),
    (LOSS, "clip_low=settings.clip_low", "clip_low=settings.clip_high"),
    (PLAIN_LOSS, "1.0 / (std + EPSILON)", "1.0 / (std * std + EPSILON)"),
    (PLAIN_LOSS, "(count - 1).clamp(min=1)", "count.clamp(min=1)"),
    (PLAIN_LOSS, "count / (count - 1)}", "(count - 1) / count}"),
    (PLAIN_LOSS, "torch.where(silent[group], 0.0, centred * factor[group])", "centred * factor[group]"),
    (PLAIN_LOSS, "(count < 2) | (low == high)", "low == high"),
    (PLAIN_LOSS, "found = ~rewards.isnan()", "found = rewards == rewards[0]"),
    (PLAIN_LOSS, "-torch.minimum(free, held)", "-torch.maximum(free, held)"),
    (PLAIN_LOSS, "-torch.minimum(free, held)", "torch.minimum(free, held)"),
    (PLAIN_LOSS, "1.0 - rule.clip_low, 1.0 + rule.clip_high", "1.0 - rule.clip_high, 1.0 + rule.clip_low"),
    (PLAIN_LOSS, "gap = old_logprobs - sampler_logprobs", "gap = sampler_logprobs - old_logprobs"),
    (PLAIN_LOSS, ".clamp(max=rule.importance_cap)", ""),
    (PLAIN_LOSS, "away = reference_logprobs - logprobs", "away = logprobs - reference_logprobs"),
    (PLAIN_LOSS, "away.exp() - away - 1.0", "away.exp() + away - 1.0"),
    (PLAIN_LOSS, "0.5 * away.square()", "away.square()"),
    (PLAIN_LOSS, 'if rule.kind == "clip_sequence" else', "if False else"),
    (PLAIN_LOSS, "index_add(0, sequence, values) / lengths", "index_add(0, sequence, values)"),
    (PLAIN_LOSS, "log_ratio.detach().exp()", "log_ratio.exp()"),
    (PLAIN_LOSS, "ratio.clamp(max=most)", "ratio.clamp(min=most)"),
    (PLAIN_LOSS, "(weights[sequence] * loss)", "loss"),
    (TRITON_LOSS, "count - 1.0, 1.0))\n", "count, 1.0))\n"),
    (TRITON_LOSS, "least == most, 0.0, 1.0", "least == most, 1.0, 0.0"),
    (TRITON_LOSS, "found = reward == reward", "found = place < end"),
    (TRITON_LOSS, "tl.maximum(held, 1.0 - clip_low)", "tl.maximum(held, 1.0 - clip_high)"),
    (TRITON_LOSS, "clipped = bound < free", "clipped = free < bound"),
    (TRITON_LOSS, "-tl.minimum(free, bound), tl", "-tl.maximum(free, bound), tl"),
    (TRITON_LOSS, "return k3, 1.0 - tl.exp(away), k3", "return k3, tl.exp(away) - 1.0, k3"),
    (TRITON_LOSS, "share * slope\n", "slope\n"),
    (TRITON_LOSS, "length = (end - start)", "length = (end - start + 1)"),
    (TRITON_LOSS, "weight * slope, mask", "slope, mask"),
    (
        TRITON_LOSS,
        "tl.store(gradient + place, weight * slope, mask=inside)",
        "tl.store(gradient + place, weight * slope)",
    ),
    (BATCH, "start + place - 1 if place else prompt - 1", "start + place"),
    (BATCH, "start + place - 1 if place else prompt - 1", "start + place - 1"),
    (BATCH, "for place in s.own]", "for place in range(len(s.own))]"),
    (BATCH, "dtype=torch.bool, device=mine.device).tril()", "dtype=torch.bool, device=mine.device)"),
    (BATCH, "((other == 0) | (other == mine))", "(other <= mine)"),
    (BLOCKS, "other <= mine", "other >= mine"),
    (BLOCKS, "mine - other < window", "mine - other <= window"),
    (BLOCKS, " & (prompt < length_R11)", ""),
    (BLOCKS, "_within(length_R11 + own[:, None], prompt, window)", "_within(own[:, None], prompt, window)"),
    (BLOCKS, "(query_RNLD * scale)", "query_RNLD"),
    (BLOCKS, "_times(on_prompt, prompt_value) + _times(on_own, own_value)", "_times(on_own, own_value)"),
    (BLOCKS, "else found[..., :-1]", "else found[..., 1:]"),
    (BLOCKS, "len(prompt) + (own_RL - 1) * len(completion)", "len(prompt) + own_RL * len(completion)"),
    (ATTENTION, "query @ repeated[0].mT * scale", "query @ repeated[0].mT"),
    (ATTENTION, "weights[..., :-1]", "weights[..., 1:]"),
    (ADAPTED, ' * self.scaling["default"]', ""),
    (ADAPTED, "_added(grad_TO @ weight_OI, grad_TR, a_RI)", "(grad_TO @ weight_OI)"),
    (ADAPTED, "_added(out.view(-1, out.shape[-1]), inner_TR, b_OR.mT)", "out"),
    (ADAPTED, " + (left @ right).to(wide)", ""),
    (ADAPTED, "found: Tensor = base(x)\n            return found", "pass"),
    (BATCH, "torch.arange(prompt, prompt + count)", "torch.arange(start, start + count)"),
    (UPDATE, "sums.loss * self.config.minibatches", "sums.loss"),
    (UPDATE, "self.optimizer.zero_grad(set_to_none=True)", "pass"),
    (UPDATE, "scores.logprobs.detach() if old is None else old", "scores.logprobs.detach()"),
    (UPDATE, "seen += len(batch.target_T)", "pass"),
    (PLAIN_LINEAR, "sums.rest / sums.stored", "1.0"),
    (PLAIN_LINEAR, "own * away) / whole", "away) / whole"),
    (PLAIN_LINEAR, "* inverse / whole", "/ whole"),
    (LINEAR, "anchors = logits - old", "anchors = logits + old"),
    (PLAIN_LINEAR, "mul_(sums.stored[:, None])", "mul_(sums.rest[:, None])"),
    (PLAIN_LINEAR, "targets - start, dtype", "targets, dtype"),
    (PLAIN_LINEAR, "lost = ~((whole >= LOW) & (whole <= HIGH))", "lost = whole != whole"),
    (PLAIN_LINEAR, "down.exp() * (moment + down * total)", "down.exp() * moment"),
    (COMPILED, "columns == places[:, None]", "columns == -1"),
    (COMPILED, " * inverse[:, None]", ""),
    (COMPILED, "(away * exps).sum(1)", "exps.sum(1)"),
    (COMPILED, "rounded.to(exps.dtype).sum(1)", "exps.sum(1)"),
    (TRITON_LINEAR, "if ROUNDED:\n        logits = logits.to", "if False:\n        logits = logits.to"),
    (PLAIN_LINEAR, "    if rounded:\n", "    if not rounded:\n"),
    (TRITON_LINEAR, "(columns[None, :] != target[:, None])", "(columns[None, :] != -1)"),
    (TRITON_LINEAR, "tl.sum(e * away, axis=1)", "tl.sum(e, axis=1)"),
    (TRITON_LINEAR, "(columns < V)[None, :] & (columns[None, :]", "(columns <= V)[None, :] & (columns[None, :]"),
    (TRITON_ROWS, "(whole >= low) & (whole <= high)", "whole >= low"),
    (TRITON_ONLINE, "(factor * (moments + down * sums)", "(factor * moments"),
    (TRITON_LINEAR, "mask=(rows < T)[:, None] & (columns < H)[None, :])", "mask=(rows < T)[:, None])"),
    (TRITON_LINEAR, "(across < columns)[None, :]", "(across <= columns)[None, :]"),
    (TRITON_LINEAR, "right, row, 2 * column + 1", "right, row, 2 * column"),
    (TRITON_LINEAR, "min(V, share * SHARE + SHARE)", "V"),
    (TRITON_ROWS, "(share * T + row).to(tl.int64)", "row.to(tl.int64)"),
    (TRITON_ROWS, "without / kept, 0.0", "1.0, 0.0"),
    (TRITON_ROWS, "(w * kept - total) * scale", "(w * without - total) * scale"),
    (TRITON_ROWS, "own * away) / whole)", "away) / whole)"),
    (TRITON_ONLINE, "right, 2 * column + 1", "right, 2 * column"),
    (ATTENTION, "- window < places", "- window <= places"),
    (POLICY, "fold(weight, delta, number)", "fold(weight, -delta, number)"),
    (POLICY, "fold(weight, delta, number)", "(weight.float() + delta).to(weight.dtype)"),
    (FOLDING, "1 << bits, (n,)", "1 << bits - 1, (n,)"),
    (FOLDING, "bfloat16: 16", "bfloat16: 17"),
    (DRAWING, "(value - candidate.expected) / candidate.chance", "(value - candidate.expected)"),
    (DRAWING, "PRIOR + DISCOUNT * (self.passed - PRIOR)", "DISCOUNT * self.passed"),
    (DRAWING, "chances * (count / chances.sum())", "chances"),
    (EPISODES, "ids = ids[1:]", "pass"),
    (EPISODES, "[*key, turn]", "[*key]"),
    (EPISODES, "foreign=(*completion.foreign, (start, start + len(ids)))", "foreign=completion.foreign"),
    (LOOP, "points[: step - 1] if rollout.ahead else points", "points"),
    (AHEAD, "    policy.load_adapter_state(weights)", "    pass"),
    (AHEAD, "    policy.load_adapter_state(moved)", "    pass"),
    (VLLM, "                if self._held:", "                if False:"),
    (UPDATE, "self.config.shard_base or self.tokens < 2", "True or self.tokens < 2"),
]
QUICK_LINEAR = "(fused or described) and (7-16 or any_estimate or rounded) or depends_on_another and dtype1"
QUICK = {
    ADVANTAGES: ["tests/test_advantages.py"],
    LOSS: ["tests/test_loss.py"],
    BATCH: ["tests/test_batch.py"],
    UPDATE: ["tests/test_update.py"],
    PLAIN_LOSS: ["tests/test_loss.py", "tests/test_kernels_loss.py", "-k", "not fused and not trl"],
    TRITON_LOSS: ["tests/test_kernels_loss.py"],
    LINEAR: ["tests/test_kernels.py", "-k", "plain"],
    PLAIN_LINEAR: ["tests/test_kernels.py", "-k", "plain"],
    COMPILED: ["tests/test_kernels.py", "-k", "compiled and (7-16 or exponentials)"],
    TRITON_LINEAR: ["tests/test_kernels.py", "-k", QUICK_LINEAR],
    TRITON_ROWS: ["tests/test_kernels.py", "-k", QUICK_LINEAR],
    TRITON_ONLINE: ["tests/test_kernels.py", "-k", QUICK_LINEAR],
    ATTENTION: ["tests/test_families.py", "tests/test_attention.py"],
    BLOCKS: ["tests/test_attention.py"],
    **{file: ["tests/test_ahead.py"] for file in (LOOP, AHEAD, VLLM)},
    ADAPTED: ["tests/test_adapted.py"],
    POLICY: ["tests/test_policy.py"],
    FOLDING: ["tests/test_folding.py"],
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


class Runner:
    """pytest on the copy, in forks of one process."""

    def __init__(self, copy: Path) -> None:
        words = [sys.executable, "tests/forks.py"]
        self.process = subprocess.Popen(words, cwd=copy, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def passes(self, tests: list[str]) -> bool:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(["-q", "-x", "-p", "no:cacheprovider", *tests]) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        # a kernel that reads outside of its memory may end the interpreter's process: found, too
        assert status in (0, 1, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT), (
            f"{tests}: pytest ended with {status}"
        )
        return status == 0


@pytest.fixture(scope="module")
def runner(copy: Path) -> Iterator[Runner]:
    started = Runner(copy)
    yield started
    started.process.kill()
    started.process.wait()


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(MUTATIONS[::4], marks=pytest.mark.slow, id="every fourth"),
        pytest.param(MUTATIONS, marks=pytest.mark.long, id="all"),
    ],
)
def test_planted_faults_are_found(
    planted: list[tuple[str, str, str]], copy: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = {tuple(QUICK[file]): None for file, _, _ in planted}
    assert all(runner.passes(list(words)) for words in tests), "without a fault they pass"
    survived = []
    for file, old, new in planted:
        path = copy / file
        source = path.read_text()
        path.write_text(source.replace(old, new, 1))
        if runner.passes(QUICK[file]):
            survived.append((file, old, new))
        path.write_text(source)
    with capsys.disabled():
        print(f"\n{len(planted) - len(survived)} of {len(planted)} planted faults found")
    assert survived == []


def test_every_planted_fault_fits_its_file() -> None:
    """Quick: a fault whose place is gone would be planted nowhere."""
    assert [(file, old) for file, old, _ in MUTATIONS if old not in (ROOT / file).read_text()] == []
