"""The demo's task in this engine and in TRL: reward against wall-clock and samples, memory, final test reward.

    python -m benchmarks.peers.learning run [--seeds 0 1 2] [--steps 40] [--sides "ours bfloat16" ...]
    python -m benchmarks.peers.learning summary

Both sides get the same prompts, reward function, group size, adapter, learning rate and number of samples; the stop
rule is off, so that both use the whole budget. Runs follow each other, side after side, seed by seed; one whose result
is there is not repeated. A step's time counts from the start of its process, so that loading, starting an engine and
proofs count. The models of both are then scored by one sampler, eight completions for each of 104 test prompts.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.verdict import summary
from benchmarks.step.race import cpu

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "demo.toml"
SIDES = [f"{side} {dtype}" for side in ("ours", "TRL") for dtype in ("bfloat16", "float32")]
POLL_S = 0.05


def main() -> None:
    """Run what is missing, or put the runs together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "summary"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES[:3])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "peers")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "peers-cpu.json")
    given = parser.parse_args()
    if given.action == "summary":
        runs = [json.loads(path.read_text()) for path in sorted(given.folder.glob("*/result.json"))]
        given.out.write_text(json.dumps(summary(runs), indent=1) + "\n")
        return
    for seed in given.seeds:
        for side in given.sides:
            folder = given.folder / f"{side.replace(' ', '-')}-{seed}"
            if not (folder / "trained.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                train(side, seed, given.steps, folder)
            if not (folder / "result.json").is_file():
                score(folder)


def train(side: str, seed: int, steps: int, folder: Path) -> None:
    """One training; what was watched goes to the folder."""
    who, dtype = side.split()
    found = (ours if who == "ours" else theirs)(seed, steps, dtype, folder)
    found |= {"side": side, "seed": seed, "machine": cpu()}
    (folder / "trained.json").write_text(json.dumps(found) + "\n")


def score(folder: Path) -> None:
    """The trained model on the test prompts."""
    found = json.loads((folder / "trained.json").read_text())
    words = ["-m", "benchmarks.peers.score", str(CONFIG), str(folder / "model")]
    scored = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found["test"] = json.loads(scored.stdout.splitlines()[-1])
    (folder / "result.json").write_text(json.dumps(found) + "\n")
    print(found["side"], found["seed"], f"{found['seconds'][-1]:.0f} s, test {found['test']['mean']:.3f}", flush=True)
    shutil.rmtree(folder / "model")


def ours(seed: int, steps: int, dtype: str, folder: Path) -> dict[str, Any]:
    """``grpo train``, without the scoring of its test prompts at the end, which TRL does not do either."""
    changed = [f"run.dir={folder}/run", f"run.seed={seed}", f"run.steps={steps}", "convergence.stop=false"]
    changed.append(f"model.dtype={dtype}")
    config = untested(folder)
    curve = folder / "run" / "metrics.jsonl"
    found = watched([sys.executable, "-m", "grpo.train", str(config), *changed], curve)
    export = ["-m", "grpo", "export", str(folder / "run"), "--merged", "--out", str(folder / "model")]
    subprocess.run([sys.executable, *export], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    rewards, tokens = ([line[name] for line in lines] for name in ("critic_rewards_mean", "response_length_mean"))
    return found | {"rewards": rewards, "tokens": tokens, "step_seconds": [line["seconds"] for line in lines]}


def untested(folder: Path) -> Path:
    """The configuration without its test prompts."""
    lines = CONFIG.read_text().splitlines()
    path = folder / "config.toml"
    path.write_text("\n".join(line for line in lines if not line.startswith("test = ")) + "\n")
    return path


def theirs(seed: int, steps: int, dtype: str, folder: Path) -> dict[str, Any]:
    """TRL's trainer."""
    words = ["-W", "ignore", "-m", "benchmarks.peers.trl_run", str(CONFIG), str(seed), str(steps), dtype, str(folder)]
    curve = folder / "curve.jsonl"
    found = watched([sys.executable, *words], curve)
    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    return found | {"rewards": [line["reward"] for line in lines], "tokens": [line["tokens"] for line in lines]}


def watched(command: list[str], curve: Path) -> dict[str, Any]:
    """Run it: seconds from its start until each line of the curve was there, and the peaks of memory, MiB."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
        seconds: list[float] = []
        own = tree = 0.0
        while process.poll() is None:
            sizes = memory(process.pid)
            own, tree = max(own, sizes[0] / 2**20), max(tree, sum(sizes) / 2**20)
            lines = curve.read_bytes().count(b"\n") if curve.is_file() else 0
            seconds += [time.monotonic() - started] * (lines - len(seconds))
            time.sleep(POLL_S)
        output.seek(0)
        assert process.returncode == 0, output.read()[-3000:]
    return {"seconds": seconds, "trainer_mib": round(own), "tree_mib": round(tree)}


def memory(pid: int) -> list[int]:
    """Resident bytes of a process and of those below it."""
    try:
        parent = psutil.Process(pid)
        return [p.memory_info().rss for p in (parent, *parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return [0]


if __name__ == "__main__":
    main()
