"""Driving a real ``grpo serve`` over a real socket: start, wait, kill."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from openai import OpenAI

KEY = "grpo-test-key"
REWARD = '''
def lambda_handler(event, context):
    """Share of letters: varied enough for a random model to have something to learn."""
    return [{"id": s["id"], "aggregate_reward_score": score(s["messages"][-1]["content"])} for s in event]

def score(text):
    return round(sum(c.isalpha() for c in text) / (len(text) or 1), 3)
'''


class Served:
    """One server process on one data directory; it can be killed and started again."""

    def __init__(
        self,
        data: Path,
        model: Path,
        *arguments: str,
        key: str | None = KEY,
        environment: dict[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.data, self.model, self.arguments, self.key = data, model, arguments, key
        self.environment, self.port = environment or {}, 0
        self.log = log or data.parent / f"{data.name}.log"
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start and read the banner up to the URL."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPO_")}
        if self.key:
            environment["GRPO_API_KEY"] = self.key
        environment |= self.environment
        words = [sys.executable, "-m", "grpo", "serve", "--port", str(self.port), "--data-dir", str(self.data)]
        words += ["--map", f"tiny={self.model}", "--sampler", "transformers", *self.arguments]
        self.data.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
            )
        self.banner = ""
        assert self.process.stdout
        while "curl" not in self.banner:
            line = self.process.stdout.readline()
            assert line, f"no banner: {self.banner}\n{self.log.read_text()}"
            self.banner += line
        match = re.search(r"https?://\S+/v1", self.banner)
        assert match
        self.url = match[0]
        self.port = int(self.url.rpartition(":")[2].removesuffix("/v1"))
        self.wait_until(self.healthy, 30)

    def healthy(self) -> bool:
        import httpx

        try:
            context = ssl.create_default_context(cafile=self.authority) if self.authority else True
            return httpx.get(self.url.replace("/v1", "/healthz"), timeout=2, verify=context).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def authority(self) -> Path | None:
        """Whom to trust, where the server speaks HTTPS."""
        return self.data / "tls" / "ca.pem" if self.url.startswith("https") else None

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=options.pop("api_key", self.key or ""), **options)

    def cli(self, *words: str) -> str:
        """The output of a ``grpo`` command on this data directory."""
        command = [sys.executable, "-m", "grpo", *words, "--data-dir", str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deploy(self, folder: Path, source: str = REWARD, name: str = "letters", **options: Any) -> None:
        file = folder / f"{name}.py"
        file.write_text(source)
        self.cli("lambda", "deploy", name, str(file), *(f"--{key}={value}" for key, value in options.items()))

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        """An orderly end."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=30)

    @staticmethod
    def wait_until(condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            time.sleep(0.1)


def amazon(served: Served, service: str, region: str = "us-east-1", key: str = "any", secret: str = "thing") -> Any:
    """An unmodified client of boto3's, with dummy credentials."""
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=served.url.removesuffix("/v1"),
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 1, "mode": "standard"}),
    )


def rows(count: int) -> bytes:
    """A training file: the tiny model's tokenizer has one token a byte."""
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"say {i}"}], "reference_answer": str(i)})
        for i in range(count)
    ]
    return ("\n".join(lines) + "\n").encode()


def method(function: str = "letters", **hyperparameters: Any) -> dict[str, Any]:
    """A request's method, as Bedrock's notebooks write it, with a run small enough for a test."""
    grader = {"type": "lambda", "lambda": {"function": function}}
    ours = {
        "rollout": {"completions_per_prompt": 4, "max_tokens": 8},
        "data": {"max_prompt_tokens": 60},
        "lora": {"rank": 8},
        "update": {"warmup_steps": 1},
        "convergence": {"stop": False},
    }
    asked = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 10.0} | hyperparameters
    return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": asked, "grpo": ours}}


def wait_for(client: OpenAI, job_id: str, *statuses: str, timeout: float = 180) -> Any:
    """The job once it is in one of the states."""
    deadline = time.monotonic() + timeout
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in statuses:
        assert job.status not in ("failed", "succeeded", "cancelled"), job
        assert time.monotonic() < deadline, f"still {job.status}"
        time.sleep(0.2)
    return job
