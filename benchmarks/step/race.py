"""A whole GRPO step against TRL's, on this machine: seconds a step, and memory. ``make bench-step``.

    .venv/bin/python benchmarks/step/race.py [--rounds 2] [--steps 3] [--dtypes ...] [--out FILE]

8 prompts x 8 completions x 48 tokens of SmolLM2-135M-Instruct, LoRA rank 16 on all linear layers, one update a step, no
group skipped. Both sides train from a copy of the model whose end-of-sequence token is one that is practically never
drawn, so that all completions are 48 tokens long. TRL samples with transformers. Each side runs in each dtype, and once
more in bfloat16 with what it can compile: ours trainer and sampler, TRL its model (``torch_compile``). The fastest of
each side counts, and beside it what is not compiled. Starting does not count. The runs of a round follow each other;
the first step of a run is left out on both sides, and the second too where it is compiled.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODEL = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
NEVER = "<reponame>"
"""A special token of the model's vocabulary that no chat contains."""
DTYPES = ("float32", "bfloat16")
COMPILED = ", compiled"


def main() -> None:
    """All contestants, in rounds; then the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "step-cpu.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model, prompts = endless(Path(scratch) / "model"), questions(Path(scratch) / "prompts.jsonl")
        kinds = [(dtype, False) for dtype in given.dtypes] + [("bfloat16", True)]
        contestants = {
            f"{side} {dtype}{COMPILED if compiled else ''}": (run, dtype, compiled)
            for side, run in (("ours", ours), ("TRL", trl))
            for dtype, compiled in kinds
        }
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
        for number in range(given.rounds):
            for name, (run, dtype, compiled) in contestants.items():
                folder = Path(scratch) / f"{number} {name}"
                folder.mkdir()
                runs[name].append(run(model, prompts, dtype, given.steps, folder, compiled))
                print(f"round {number + 1}, {name}: {runs[name][-1]}", flush=True)
    results = summary(runs)
    print(json.dumps(results, indent=1))
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")


def endless(out: Path) -> Path:
    """The model with another end-of-sequence token."""
    shutil.copytree(MODEL, out)
    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"eos_token": NEVER}))
    from transformers import AutoTokenizer

    number = AutoTokenizer.from_pretrained(out).convert_tokens_to_ids(NEVER)
    for name in ("config.json", "generation_config.json"):
        if (out / name).is_file():
            settings = json.loads((out / name).read_text())
            (out / name).write_text(json.dumps(settings | {"eos_token_id": number}))
    return out


def questions(out: Path) -> Path:
    """The demo's prompts."""
    rows = [json.loads(line) for line in (ROOT / "configs" / "demo" / "train.jsonl").read_text().splitlines()[:64]]
    out.write_text("".join(json.dumps({"messages": row["messages"]}) + "\n" for row in rows))
    return out


def ours(model: Path, prompts: Path, dtype: str, steps: int, folder: Path, compiled: bool) -> dict[str, Any]:
    """A training by ``grpo train``; every second from one step's start to its durable end counts."""
    config, left_out = folder / "race.toml", 1 + compiled
    config.write_text(settings(model, prompts, dtype, compiled, steps + compiled, folder))
    memory, _ = watched([sys.executable, "-m", "grpo.train", str(config)])
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["trained_tokens"] == line["sampled_tokens"] for line in lines), "no group is skipped"
    parts = ("seconds_sampling", "seconds_update", "sync_seconds")
    found = {part: median(line[part] for line in lines[left_out:]) for part in parts}
    tokens, taken = [line["sampled_tokens"] / 64 for line in lines], [line["seconds"] for line in lines]
    return {"seconds": taken[left_out:], "left_out": taken[:left_out], "tokens": tokens} | found | memory


def settings(model: Path, prompts: Path, dtype: str, compiled: bool, steps: int, folder: Path) -> str:
    return f"""
[run]
dir = "{folder}/run"
steps = {steps}
[model]
path = "{model}"
dtype = "{dtype}"
[data]
train = "{prompts}"
[reward]
file = "{HERE}/reward.py"
[rollout]
prompts_per_step = 8
completions_per_prompt = 8
max_tokens = 48
compile = "{"always" if compiled else "auto"}"
[lora]
rank = 16
alpha = 32
[update]
tokens_per_microbatch = 4096
compile = {str(compiled).lower()}
[convergence]
stop = false
"""


def trl(model: Path, prompts: Path, dtype: str, steps: int, folder: Path, compiled: bool) -> dict[str, Any]:
    """GRPOTrainer with all 64 completions in one forward pass, which is its fastest way here."""
    words = [str(HERE / "trl_run.py"), str(model), str(prompts), dtype, "64", str(steps + compiled)]
    memory, output = watched([sys.executable, "-W", "ignore", *words, *(["compiled"] if compiled else [])])
    found, left_out = json.loads(output.splitlines()[-1]), 1 + compiled
    taken = found["seconds"]
    return {"seconds": taken[left_out:], "left_out": taken[:left_out], "tokens": found["tokens"]} | memory


def watched(command: list[str]) -> tuple[dict[str, float], str]:
    """Run it; the peaks of its own memory and of its process tree in MiB, and its output."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=ROOT)
        own = tree = 0.0
        while process.poll() is None:
            try:
                parent = psutil.Process(process.pid)
                sizes = [p.memory_info().rss for p in (parent, *parent.children(recursive=True))]
                own, tree = max(own, sizes[0] / 2**20), max(tree, sum(sizes) / 2**20)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.05)
        for file in (output, errors):
            file.seek(0)
        assert process.returncode == 0, errors.read()[-3000:] + output.read()[-2000:]
        return {"trainer_mib": round(own), "tree_mib": round(tree)}, output.read()


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The fastest of each side, by the median of all steps of all rounds; by round, the fastest of that round."""
    seconds = {name: [s for run in found for s in run["seconds"]] for name, found in runs.items()}
    medians = {name: median(values) for name, values in seconds.items()}
    best = {side: min((n for n in medians if n.startswith(side)), key=lambda n: medians[n]) for side in ("ours", "TRL")}
    ratios = [fastest(runs, "TRL", number) / fastest(runs, "ours", number) for number in range(len(runs[best["TRL"]]))]
    plain = {side: [m for n, m in medians.items() if n.startswith(side) and COMPILED not in n] for side in best}
    peaks = {
        name: {key: max(run[key] for run in found) for key in ("trainer_mib", "tree_mib")}
        for name, found in runs.items()
    }
    return {
        "machine": cpu(),
        "threads": torch.get_num_threads(),
        "work": "8 prompts x 8 completions x 48 tokens, SmolLM2-135M-Instruct, LoRA rank 16",
        "fastest": best,
        "ratio_step": medians[best["TRL"]] / medians[best["ours"]],
        "ratio_step_by_round": ratios,
        "ratio_step_not_compiled": min(plain["TRL"]) / min(plain["ours"]),
        "ratio_memory": peaks[best["ours"]]["trainer_mib"] / peaks[best["TRL"]]["trainer_mib"],
        "ratio_memory_of_tree": peaks[best["ours"]]["tree_mib"] / peaks[best["TRL"]]["tree_mib"],
        "seconds_a_step": {n: {"median": medians[n], "lowest": min(v), "highest": max(v)} for n, v in seconds.items()},
        "peak_mib": peaks,
        "runs": runs,
    }


def fastest(runs: dict[str, list[dict[str, Any]]], side: str, number: int) -> float:
    """Seconds a step of whichever of a side's contestants was the fastest in that round."""
    return min(median(found[number]["seconds"]) for name, found in runs.items() if name.startswith(side))


def cpu() -> str:
    """Its name, and what it multiplies fast."""
    text = Path("/proc/cpuinfo").read_text()
    name = next(line.split(": ")[1] for line in text.splitlines() if line.startswith("model name"))
    return f"{name}, {'amx_bf16' if 'amx_bf16' in text else 'avx512' if 'avx512f' in text else 'avx2'}"


if __name__ == "__main__":
    main()
