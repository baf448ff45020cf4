"""The output layer, forward and backward, side by side in one process: ours, torch, torch.compile, TRL and Liger.

    .venv/bin/python benchmarks/kernels/run.py [--hidden 576] [--vocabulary 49152] [--tokens 2048] [--dtypes float32]

Everybody computes the log-probabilities of T targets, weighs them with the same numbers, and takes the gradient of the
hidden states; the head is frozen. Rounds are interleaved in random order. On a CPU the measure is CPU-seconds of the
process, on CUDA milliseconds between events; memory is the peak above the inputs, in a process of its own on a CPU. The
floor is two matmuls of size T x V x H, measured in the same rounds.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from grpo_kernels import choose, linear_logp_jac
from torch import Tensor

CLIENTS = Path(__file__).resolve().parents[2] / ".cache" / "clients"
TEMPERATURE = 0.9
COMPILED = "ours, compiled"
"""As ``update.compile`` has it on a CPU. Its memory is not measured: compiling takes more than it."""
Work = Callable[[], Any]


class Problem:
    """Inputs of one shape, and what each rival does with them."""

    def __init__(self, tokens: int, hidden: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> None:
        g = torch.Generator(device).manual_seed(0)
        drawn = lambda *shape: torch.randn(shape, generator=g, device=device)  # noqa: E731
        self.hidden = (drawn(tokens, hidden) * 4 / hidden**0.5).to(dtype).requires_grad_()
        self.head = drawn(vocabulary, hidden).to(dtype)
        self.targets = torch.randint(0, vocabulary, (tokens,), generator=g, device=device)
        self.weights = drawn(tokens)
        with torch.no_grad():  # the sampler's estimate of the log-probabilities: right to a tenth of a nat
            exact, _ = linear_logp_jac(self.hidden, self.head, self.targets, TEMPERATURE, None, choose("plain", device))
        self.old = exact + 0.1 * drawn(tokens)
        self.device = device

    def rivals(self) -> dict[str, Work]:
        """Forward and backward of each."""
        sys.path[:0] = [str(CLIENTS / "trl"), str(CLIENTS / "liger")]
        from liger_kernel.chunked_loss.fused_linear_ppo import _ChunkedSelectiveLogProbFunction as Liger
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction as Trl

        compiled = torch.compile(unfused, dynamic=False)
        kernels = choose("auto", self.device)
        jac = lambda *inputs: linear_logp_jac(*inputs, rounded=True)[0]  # noqa: E731
        ours = lambda *inputs: jac(*inputs, TEMPERATURE, self.old, kernels)  # noqa: E731
        trl = lambda h, w, y: Trl.apply(h, w, None, y, TEMPERATURE, 8192)[0]  # noqa: E731
        liger = lambda h, w, y: Liger.apply(h, w, y, None, TEMPERATURE, 4096)  # noqa: E731
        forms = {"ours": ours, "unfused torch": unfused, "torch.compile": compiled, "TRL chunked": trl, "Liger": liger}
        if self.device.type == "cpu":
            sums = choose("plain", self.device, compiled=True)
            forms[COMPILED] = lambda *inputs: jac(*inputs, TEMPERATURE, self.old, sums)
        found: dict[str, Work] = {name: lambda form=form: self.step(form) for name, form in forms.items()}
        return found | {"two matmuls": self.floor}

    def step(self, form: Callable[..., Tensor]) -> Tensor:
        """The gradient [T, H]."""
        self.hidden.grad = None
        (form(self.hidden, self.head, self.targets).float() * self.weights).sum().backward()
        assert self.hidden.grad is not None
        return self.hidden.grad

    def floor(self) -> None:
        """Two matmuls of the size that no dense method can do without, in pieces that stay in the cache."""
        with torch.no_grad():
            for rows in self.hidden.split(1024):
                torch.matmul(torch.matmul(rows, self.head.T), self.head)


def unfused(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """As one writes it down."""
    logits = torch.matmul(hidden, head.T).float() / TEMPERATURE
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def spent(work: Work, device: torch.device) -> float:
    """CPU-seconds, or milliseconds of the card."""
    if device.type == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def race(problem: Problem, rounds: int) -> dict[str, list[float]]:
    """What each took in each round; a round before them warms up."""
    rivals = problem.rivals()
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for name, work in rivals.items():
        print(f"   warming up {name}", flush=True)
        work()
    order = random.Random(0)
    for number in range(rounds):
        for name in order.sample(list(rivals), len(rivals)):
            taken[name].append(spent(rivals[name], problem.device))
        print(f"   round {number + 1} of {rounds}", flush=True)
    return taken


def against(name: str, taken: dict[str, list[float]], ours: str = "ours") -> dict[str, float]:
    """Ratio ours / theirs of the same round: the median, and a bound above it.

    The largest but one of ten ratios is above their median with probability 0.989 (of ten coins, at most eight heads).
    """
    ratios = sorted(a / b for a, b in zip(taken[ours], taken[name], strict=True))
    return {"ratio": median(ratios), "lowest": ratios[0], "upper_bound": ratios[-2], "highest": ratios[-1]}


def peaks(shape: list[str], name: str, device: torch.device) -> list[float]:
    """MiB above the inputs while the rival works, in processes of their own, in order.

    On a CPU the allocator keeps now more, now less of what was freed, so that one process says little.
    """
    words = [sys.executable, __file__, *shape, "--peak", name]
    runs = 5 if device.type == "cpu" else 1
    print(f"   memory of {name}, in processes of its own: {runs}", flush=True)
    done = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for _ in range(runs)]
    return sorted(float(out.splitlines()[-1]) for out in done)


def own_peak(problem: Problem, work: Work) -> float:
    """In MiB, of this process or of the card."""
    if problem.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    problem.hidden[:8].sum().backward()  # thread pools and gradients are there, and so is what a first matmul leaves
    with torch.no_grad():  # behind, as it is in any training, where layers come before the head
        torch.matmul(torch.matmul(problem.hidden[:64], problem.head[:256].T), problem.head[:256])
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    work()
    return (status("VmHWM") - before) / 2**10


def status(field: str) -> int:
    """KiB."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1])


def measured(given: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """One shape."""
    device = torch.device(given.device)
    shape = [f"--tokens={given.tokens}", f"--hidden={given.hidden}", f"--vocabulary={given.vocabulary}"]
    shape += [f"--dtypes={dtype}", f"--device={given.device}"]
    print(f"== {dtype}, {given.tokens} x {given.hidden} x {given.vocabulary} on {device}", flush=True)
    problem = Problem(given.tokens, given.hidden, given.vocabulary, getattr(torch, dtype), device)
    taken = race(problem, given.rounds)
    rivals = [name for name in taken if name not in ("ours", COMPILED, "two matmuls")]
    found: dict[str, Any] = {"tokens": given.tokens, "hidden": given.hidden, "vocabulary": given.vocabulary}
    found |= {"dtype": dtype, "unit": "CPU-seconds" if device.type == "cpu" else "ms", "rounds": given.rounds}
    found["medians"] = {name: median(values) for name, values in taken.items()}
    found["ours against"] = {name: against(name, taken) for name in rivals}
    if COMPILED in taken:
        found[f"{COMPILED} against"] = {name: against(name, taken, COMPILED) for name in ["ours", *rivals]}
    found["share of two matmuls"] = median(taken["two matmuls"]) / median(taken["ours"])
    spread = {name: peaks(shape, name, device) for name in ["ours", *rivals]}
    found["extra MiB"] = {name: median(each) for name, each in spread.items()}
    found["extra MiB, lowest and highest"] = {name: [each[0], each[-1]] for name, each in spread.items()}
    found["memory ratio"] = {name: found["extra MiB"]["ours"] / found["extra MiB"][name] for name in rivals}
    return found


def main() -> None:
    """All dtypes of one shape; the file keeps other shapes and cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    if given.peak:
        problem = Problem(given.tokens, given.hidden, given.vocabulary, getattr(torch, given.dtypes[0]), device)
        print(own_peak(problem, problem.rivals()[given.peak]))
        return
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu()
    results = {"machine": card, "threads": torch.get_num_threads(), "torch": torch.__version__}
    results["shapes"] = [measured(given, dtype) for dtype in given.dtypes]
    print(json.dumps(results, indent=1))
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


def cpu() -> str:
    """Its name and what it multiplies fast."""
    text = Path("/proc/cpuinfo").read_text()
    name = next(line.split(": ")[1] for line in text.splitlines() if line.startswith("model name"))
    return f"{name}, {'amx_bf16' if 'amx_bf16' in text else 'avx512' if 'avx512f' in text else 'avx2'}"


if __name__ == "__main__":
    main()
