"""The output layer on a GPU over a grid of shapes, side by side in one process: ``make bench-kernels`` with a card.

    .venv/bin/python benchmarks/kernels/grid.py [--hidden 576 2560] [--vocabulary 49152] [--tokens 8192] [--seconds 2]

As run.py: log-probabilities of T targets in bf16 and the gradient of the hidden states, head frozen. Rounds are
interleaved in random order, the L2 cache is flushed before each; a rival that fails is recorded with its error.
The card has work queued when a round begins, as behind a model's layers, so that it does not wait for the host; what
ours takes on an idle card is measured beside it. The floor is two matmuls of cuBLAS at the same shape, in pieces.
"""

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from grpo_kernels import LossRule, choose, linear_logp_jac
from run import TEMPERATURE, Problem, Work, own_peak, unfused
from torch import Tensor

MOST_ROUNDS, FEWEST_ROUNDS = 30, 5
FLOODS = 100
"""Some seven milliseconds of an H200, which hide the host's time for a pass of a few pieces."""
RULE = LossRule(kind="clip", clip_low=0.2, clip_high=0.28, importance_cap=2.0)


class OnCard(Problem):
    """A problem in bf16; torch.compile once for all shapes, and the forward pass alone."""

    def __init__(self, tokens: int, hidden: int, vocabulary: int, compiled: Callable[..., Tensor]) -> None:
        super().__init__(tokens, hidden, vocabulary, torch.bfloat16, torch.device("cuda"))
        self.compiled = compiled

    def rivals(self) -> dict[str, Work]:
        found = super().rivals()
        found["torch.compile"] = lambda: self.step(self.compiled)
        return found | {"ours, no gradient": self.forward_only, "one matmul": self.one_matmul}

    def forward_only(self) -> None:
        with torch.no_grad():
            linear_logp_jac(
                *(self.hidden, self.head, self.targets, TEMPERATURE, None, choose("fused", self.device)), rounded=True
            )

    def one_matmul(self) -> None:
        with torch.no_grad():
            for rows in self.hidden.split(1024):
                torch.matmul(rows, self.head.T)


class Clock:
    """Milliseconds of the card, with a cold L2 cache."""

    def __init__(self) -> None:
        self.flood = torch.empty(2**28, dtype=torch.uint8, device="cuda")

    def __call__(self, work: Work, queued: bool = True) -> float:
        for _ in range(FLOODS if queued else 1):
            self.flood.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))


def race(rivals: dict[str, Work], clock: Clock, seconds: float) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Milliseconds of each round, and who failed how. A rival has its first round thrown away."""
    taken, lost = {}, {}
    for name, work in rivals.items():
        try:
            work()
            taken[name] = [clock(work)]
        except Exception as error:
            if name == "ours":
                raise
            lost[name] = type(error).__name__
            gc.collect()
            torch.cuda.empty_cache()
    a_round = sum(first[0] for first in taken.values()) / 1000
    order = random.Random(0)
    for _ in range(min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(seconds / a_round))) - 1):
        for name in order.sample(list(taken), len(taken)):
            taken[name].append(clock(rivals[name]))
    return taken, lost


def measured(problem: OnCard, clock: Clock, seconds: float) -> dict[str, Any]:
    """One shape: medians with tenths, shares of what cuBLAS takes, ratios to the rivals, memory above the inputs."""
    rivals = problem.rivals()
    taken, lost = race(rivals, clock, seconds)
    middle = {name: median(values) for name, values in taken.items()}
    tenths = {name: quantiles(values, n=10) for name, values in taken.items()}
    (tokens, hidden), vocabulary = problem.hidden.shape, len(problem.head)
    memory = {name: own_peak(problem, rivals[name]) for name in taken if "matmul" not in name}
    return {
        "shape": {"tokens": tokens, "hidden": hidden, "vocabulary": vocabulary},
        "rounds": len(taken["ours"]),
        "ms": {name: {"median": middle[name], "p10": t[0], "p90": t[-1]} for name, t in tenths.items()},
        "ms on an idle card": median(clock(rivals["ours"], queued=False) for _ in range(10)),
        "failed": lost,
        "TFLOP/s of two matmuls": 4e-9 * tokens * hidden * vocabulary / middle["two matmuls"],
        "share of two matmuls": middle["two matmuls"] / middle["ours"],
        "share of one matmul, no gradient": middle["one matmul"] / middle["ours, no gradient"],
        "theirs / ours": {name: middle[name] / middle["ours"] for name in middle if name not in rivals_of_none()},
        "extra MiB": memory,
        "worst row against float64": worst_row(problem),
    }


def rivals_of_none() -> tuple[str, ...]:
    return "ours", "ours, no gradient", "one matmul", "two matmuls"


def worst_row(problem: OnCard) -> float:
    """Error of the gradient relative to its row's norm, over 64 rows."""
    rows = slice(0, 64)
    found = problem.step(
        lambda h, w, y: linear_logp_jac(h, w, y, TEMPERATURE, problem.old, choose("fused", problem.device))[0]
    )[rows]
    h = problem.hidden.detach()[rows].double().requires_grad_()
    logits = torch.matmul(h, problem.head.double().T) / TEMPERATURE
    logp = logits.log_softmax(-1).gather(1, problem.targets[rows, None])[:, 0]
    (logp * problem.weights[rows]).sum().backward()  # type: ignore[no-untyped-call]
    assert h.grad is not None
    return float(((found.double() - h.grad).norm(dim=1) / h.grad.norm(dim=1)).max())


def small_kernels(clock: Clock) -> dict[str, Any]:
    """Advantages of 64 groups of 16, and the policy loss of 65,536 tokens: microseconds, fused and plain."""
    g = torch.Generator().manual_seed(0)
    rewards = torch.randn(1024, generator=g).cuda()
    groups, completions = torch.arange(65, device="cuda") * 16, torch.arange(1025, device="cuda") * 64
    logp, old, sampler = (-torch.rand(65536, generator=g).cuda() for _ in range(3))
    each = torch.rand(1024, generator=g).cuda()
    found: dict[str, Any] = {}
    for form in ("fused", "plain"):
        kernels = choose(form, torch.device("cuda"))
        advantages = lambda kernels=kernels: kernels.group_advantages(rewards, groups, "std")  # noqa: E731
        loss = lambda kernels=kernels: kernels.policy_loss(  # noqa: E731
            logp.requires_grad_(), old, sampler, None, each, each, completions, RULE
        )
        for name, work in (("advantages", advantages), ("loss", loss)):
            work()
            found[f"{name}, {form}"] = 1000 * median(clock(work) for _ in range(MOST_ROUNDS))
    return found


def ceilings(clock: Clock) -> dict[str, float]:
    """What this card multiplies and copies at best."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    big = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(big)
    product, copy = (median(clock(work) for _ in range(10)) for work in (lambda: a @ b, lambda: other.copy_(big)))
    return {"matmul TFLOP/s": 2e-9 * 8192**3 / product, "copy GB/s, read and written": 2e-6 * big.numel() / copy}


def main() -> None:
    """The whole grid, small shapes first; the file is written after every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[576, 1024, 2560, 5120])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[49152, 151936])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 65536])
    parser.add_argument("--seconds", type=float, default=2.0, help="for the rounds of one shape")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which no new shape is begun")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gpu.json")
    given = parser.parse_args()
    started, clock, compiled = time.monotonic(), Clock(), torch.compile(unfused, dynamic=True)
    results: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    results |= {
        "triton": sys.modules["triton"].__version__,
        "ceilings": ceilings(clock),
        "microseconds": small_kernels(clock),
    }
    results["shapes"] = []
    shapes = [(t, h, v) for t in given.tokens for h in given.hidden for v in given.vocabulary]
    for tokens, hidden, vocabulary in shapes:
        if time.monotonic() - started > given.limit:
            print("out of time", flush=True)
            break
        found = measured(OnCard(tokens, hidden, vocabulary, compiled), clock, given.seconds)
        results["shapes"].append(found)
        print(json.dumps({key: found[key] for key in found if key != "ms"}), flush=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
