"""Does n-gram speculation pay for rollouts? Two engines, with and without, the same requests in turn.

    .venv/bin/python benchmarks/step/speculation.py [--rounds 6] [--out FILE]

8 prompts x 8 completions x 48 tokens of the demo, temperature 1, as race.py samples them. The engine drafts three
tokens where the last two to four occurred before in the prompt or the completion, and accepts by rejection sampling,
which leaves the distribution as it is. Seconds of a whole batch, and the share of drafted tokens that was accepted.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from race import ROOT, cpu, endless

from grpo.engine import EngineOptions, command, environment

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
PROMPTS, COMPLETIONS, TOKENS = 8, 8, 48


class Engine:
    """vLLM's own server, as a run starts it, but for the port."""

    def __init__(self, model: Path, port: int, log: Path, *extra: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        options = EngineOptions(
            model=model,
            dtype="float32",
            max_model_len=512,
            device="cpu",
            memory_gib=2.0,
            memory_share=0.5,
            seed=0,
            lora_rank=None,
        )
        words = [*command(options, {"--port": port}), *extra]
        self.process = subprocess.Popen(words, stdout=log.open("w"), stderr=subprocess.STDOUT, env=environment(options))

    def wait(self) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the engine ended; see its log"
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(1)
        raise TimeoutError(self.url)

    def sample(self, prompts: list[Any], seed: int) -> float:
        """Seconds of a batch."""

        def one(at: int) -> int:
            body = {
                "model": "policy",
                "messages": prompts[at],
                "n": COMPLETIONS,
                "max_tokens": TOKENS,
                "seed": seed + at,
            }
            answer = httpx.post(
                f"{self.url}/v1/chat/completions", json=body | {"logprobs": True, "seed": seed + at}, timeout=300
            )
            return int(answer.raise_for_status().json()["usage"]["completion_tokens"])

        started = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            tokens = sum(pool.map(one, range(len(prompts))))
        assert tokens == PROMPTS * COMPLETIONS * TOKENS
        return time.perf_counter() - started

    def counted(self, name: str) -> float:
        """A counter of the engine's metrics."""
        found = re.search(
            rf"^vllm:spec_decode_num_{name}_tokens_total\S* (\S+)$", httpx.get(f"{self.url}/metrics").text, re.M
        )
        return float(found[1]) if found else 0.0


def main() -> None:
    """Both engines live all along, and one of them works."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "speculation-cpu.json")
    given = parser.parse_args()
    rows = [json.loads(line) for line in (ROOT / "configs" / "demo" / "train.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        model = endless(Path(scratch) / "model")
        log = Path(scratch) / "log"
        engines = {"plain": Engine(model, 8711, log)}
        try:
            engines["plain"].wait()
            engines["n-gram"] = Engine(model, 8712, log, "--speculative-config", json.dumps(NGRAM))
            engines["n-gram"].wait()
            taken: dict[str, list[float]] = {name: [] for name in engines}
            for number in range(given.rounds + 1):
                prompts = [row["messages"] for row in rows[number * PROMPTS : (number + 1) * PROMPTS]]
                for name, engine in engines.items():
                    taken[name].append(engine.sample(prompts, 1000 * number))
                print(number, {name: round(values[-1], 2) for name, values in taken.items()}, flush=True)
            drafted, accepted = (engines["n-gram"].counted(name) for name in ("draft", "accepted"))
        except AssertionError:
            print(log.read_text()[-3000:])
            raise
        finally:
            for engine in engines.values():
                engine.process.terminate()
                engine.process.wait(60)
    seconds = {name: values[1:] for name, values in taken.items()}  # the first warms up
    ratios = sorted(a / b for a, b in zip(seconds["n-gram"], seconds["plain"], strict=True))
    results = {"machine": cpu(), "seconds": {n: {"median": median(v), "all": v} for n, v in seconds.items()}}
    results |= {"n-gram / plain": {"median": median(ratios), "lowest": ratios[0], "highest": ratios[-1]}}
    results |= {"drafted": drafted, "accepted": accepted, "sampled": given.rounds * PROMPTS * COMPLETIONS * TOKENS}
    print(json.dumps(results, indent=1))
    given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
