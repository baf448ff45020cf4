"""Kill worker, host, server, engine or everything at seeded random moments of a job, and compare with the unkilled job.

    python tests/kill_loop.py [--kills 20] [--sampler transformers] [--seed 0] [--out FILE]

Equal must be, by digest: every tensor of the final checkpoint, and metrics and events in the projection of ``digests``.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from grpo.process_host import descendants  # noqa: E402
from grpo.server.records import TERMINAL  # noqa: E402
from grpo.server.store import Database, Store  # noqa: E402

from conftest import make_tiny_model  # noqa: E402
from runs import TIMES, alive, final_state, metrics  # noqa: E402
from servers import Served, method, rows  # noqa: E402

TARGETS = ("worker", "host", "server", "engine", "everything")
LONGEST_S = 600.0


@dataclass
class Result:
    """What a loop found."""

    kills: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    different: list[str] = field(default_factory=list)
    seconds: float = 0.0


def submit(served: Served) -> str:
    """The same job every time."""
    client = served.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    asked = method(n_epochs=3, eval_interval=3)
    asked["reinforcement"]["grpo"]["rollout"]["max_tokens"] = 6
    heldout = client.files.create(file=("heldout.jsonl", rows(3)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, validation_file=heldout.id, seed=5, extra_body={"method": asked}
    )
    return job.id


def digests(served: Served, job_id: str) -> dict[str, str]:
    """What must be equal."""
    run = served.data / "jobs" / job_id / "run"
    tensors = hashlib.sha256()
    for name, value in sorted(final_state(run).items()):
        tensors.update(name.encode() + value)
    events = [project(e, job_id) for e in map(json.loads, served.cli("events", job_id, "--json").splitlines())]
    told = [e for e in events if not e["message"].startswith("Interrupted")]
    lines = json.dumps(metrics(run), sort_keys=True)
    return {
        "tensors": tensors.hexdigest(),
        "metrics": hashlib.sha256(lines.encode()).hexdigest(),
        "events": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest(),
    }


def project(event: dict[str, Any], job_id: str) -> dict[str, Any]:
    """An event without times and ids."""
    data = {k: v for k, v in (event["data"] or {}).items() if k not in TIMES}
    name = job_id.removeprefix("ftjob-")[:8]
    return {
        "level": event["level"],
        "type": event["type"],
        "message": event["message"].replace(name, "ID"),
        "data": data,
    }


def pids(served: Served, target: str) -> list[int]:
    """The processes that a kill means."""
    assert served.process
    host = [p for p in alive(str(served.data / "jobs")) if is_host(p)]
    workers = [p for p in alive(str(served.data / "jobs")) if not is_host(p) and b"grpo.train" in words(p)]
    if target == "worker":
        return workers
    if target == "host":
        return host
    if target == "server":
        return [served.process.pid]
    if target == "engine":
        return [p for w in workers for p in descendants(w) if b"vllm" in words(p).lower() and not is_host(p)]
    return [served.process.pid, *descendants(served.process.pid)]


def words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_host(pid: int) -> bool:
    return b"process_host.py" in words(pid)


def kill(found: list[int]) -> None:
    import os

    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def finish(served: Served, job_id: str, schedule: list[tuple[float, str]], result: Result) -> None:
    """Wait for the job's end, killing when the schedule says so; a dead server is started again."""
    started = time.monotonic()
    pending = list(schedule)
    store = Store(Database(served.data / "state.db"))
    while True:
        if pending and time.monotonic() - started >= pending[0][0]:
            _, target = pending.pop(0)
            found = pids(served, target)
            kill(found)
            result.kills[target] += bool(found)
        assert served.process
        if served.process.poll() is not None:
            served.process.communicate()
            served.start()
        job = store.jobs.get(job_id)
        assert job
        if job.status in TERMINAL:
            assert job.error is None or job.error["code"] == "no_signal", job.error  # a random model may learn nothing
            store.database.close()
            return
        assert time.monotonic() - started < LONGEST_S, job
        time.sleep(0.05)


def loop(kills: int, sampler: str, seed: int, folder: Path, per_job: int = 4) -> Result:
    """Jobs with ``per_job`` kills each until there were so many; differences are in the result."""
    rng = random.Random(seed)
    result = Result()
    started = time.monotonic()
    model = make_tiny_model(folder / "model")
    usual, expected = one_job(folder / "unkilled", model, sampler, [], result)
    targets = [t for t in TARGETS if t != "engine" or sampler == "vllm"]
    while (left := kills - sum(result.kills.values())) > 0:
        moments = accumulate(rng.uniform(0.5, 0.8 * usual) for _ in range(min(per_job, left)))
        schedule = [(moment, rng.choice(targets)) for moment in moments]
        _, found = one_job(folder / f"job-{result.jobs}", model, sampler, schedule, result)
        result.different += [f"job {result.jobs}: {k}, {schedule}" for k in expected if found[k] != expected[k]]
        print(f"{sum(result.kills.values())} of {kills} kills, {len(result.different)} differences", flush=True)
    result.seconds = time.monotonic() - started
    return result


def one_job(
    data: Path, model: Path, sampler: str, schedule: list[tuple[float, str]], result: Result
) -> tuple[float, dict[str, str]]:
    """A server of its own, one job, its kills; how long it took, and the digests."""
    served = Served(data, model, "--sampler", sampler)
    try:
        served.deploy(data.parent)
        started = time.monotonic()
        job_id = submit(served)
        finish(served, job_id, schedule, result)
        took = time.monotonic() - started
        found = digests(served, job_id)
    finally:
        served.stop()
    result.jobs += 1
    shutil.rmtree(data)
    return took, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sampler", default="transformers", choices=("transformers", "vllm"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grpo-kill-loop-") as folder:
        result = loop(arguments.kills, arguments.sampler, arguments.seed, Path(folder))
    summary = {
        "sampler": arguments.sampler,
        "seed": arguments.seed,
        "kills": dict(result.kills),
        "jobs": result.jobs,
        "different": result.different,
        "seconds": round(result.seconds),
    }
    print(json.dumps(summary, indent=1))
    if arguments.out:
        known = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
        arguments.out.write_text(json.dumps([*known, summary], indent=1) + "\n")
    return 1 if result.different else 0


if __name__ == "__main__":
    sys.exit(main())
