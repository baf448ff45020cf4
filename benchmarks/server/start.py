"""Seconds from the command ``grpo serve`` to its last line, and to the first answer. Writes start.json.

.venv/bin/python benchmarks/server/start.py [--repeats 9]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median


def one(data: Path) -> tuple[float, float]:
    """Banner complete, health answered; seconds since the start of the process."""
    started = time.monotonic()
    command = [sys.executable, "-m", "grpo", "serve", "--port", "0", "--data-dir", str(data)]
    environment = os.environ | {"GRPO_API_KEY": "benchmark-key"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        assert server.stdout
        url = next(line.split()[1] for line in server.stdout if line.startswith("url"))
        next(line for line in server.stdout if line.startswith("curl"))
        banner = time.monotonic() - started
        while True:
            try:
                urllib.request.urlopen(url.replace("/v1", "/healthz")).read()
                break
            except OSError:
                time.sleep(0.01)
        ready = time.monotonic() - started
        server.terminate()
    return banner, ready


def main() -> None:
    """Repeat, each time on an empty data directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "start.json")
    given = parser.parse_args()
    found = []
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory() as folder:
            found.append(one(Path(folder) / "data"))
    result = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "repeats": given.repeats}
    for name, values in zip(("banner", "first answer"), zip(*found, strict=True), strict=True):
        result[name] = {
            "median": round(median(values), 3),
            "least": round(min(values), 3),
            "most": round(max(values), 3),
        }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
