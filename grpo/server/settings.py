"""What a server is told at its start: flags, then environment variables, then defaults. Touches: disk, environment."""

import os
from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings(BaseSettings):
    """Every setting has an environment variable ``GRPO_<NAME>``; unknown arguments are errors."""

    model_config = SettingsConfigDict(env_prefix="GRPO_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8321, ge=0, le=65535)
    """0: one that is free."""
    tls: bool = False
    """HTTPS, with a certificate by an authority of the data directory's own."""
    data_dir: Path = Field(default_factory=lambda: user_data_path("grpo"))
    api_key: str | None = None
    """Unset: made at the first start, shown once."""
    allowed_hosts: tuple[str, ...] = ()
    """Names beside the loopback ones under which the server may be addressed, for instance behind a proxy."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins whose pages may call the server, for instance https://console.example."""
    models: dict[str, Path] = {}
    """Directories that stand for model ids, beside the demo's."""
    strict: bool = False
    """Refuse all that Bedrock is known to refuse."""
    region: str = "us-west-2"
    """The region that signatures and tokens must name."""
    aws_access_key_id: str | None = None
    aws_secret_access_key: str | None = None
    """With both, AWS signatures are verified; without, their form, region and time are."""
    aws_lambda: bool = False
    """Whether an ARN that is not registered here is called at AWS, with boto3's credentials."""
    function_network: bool = False
    """Whether functions made by Lambda's API may use the network, as they may at Lambda."""
    concurrent_jobs: int = Field(1, ge=1)
    worker_processes: int = Field(1, ge=1)
    """Ranks of one job's training."""
    sampler: str = Field("auto", pattern="^(auto|vllm|transformers)$")
    """Of the jobs; see rollout.sampler."""
    engine_dtype: str = Field("auto", pattern="^(auto|float32|bfloat16)$")
    """Of the engines for inference; auto: float32 on a CPU, bfloat16 on a GPU."""
    engine_memory_gib: float | None = Field(None, gt=0)
    """For the tokens that a job's sampling engine has in memory, on a CPU; see rollout.engine_memory_gib."""
    engines: int = Field(2, ge=1)
    """Base models kept in memory for inference at the same time."""
    engine_idle_s: float = Field(900.0, gt=0)
    """An inference engine that is not used for so long is stopped."""
    largest_upload: int = Field(512 * 2**20, ge=1)
    largest_body: int = Field(8 * 2**20, ge=1024)

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise ValueError("aws_access_key_id and aws_secret_access_key belong together")
        if self.tls and self.function_network:
            raise ValueError("functions do not know the authority of --tls yet: leave out --function-network or --tls")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in LOOPBACK

    @property
    def url(self) -> str:
        """Of Amazon's APIs; that of OpenAI's is this and /v1. ``port`` must be known."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def reach(self) -> dict[str, str] | None:
        """How a function finds this server by boto3; None where functions have no network. ``port`` must be known.

        The keys are dummies: the server's own are not for code that strangers wrote.
        """
        if not self.function_network:
            return None
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "function",
            "AWS_SECRET_ACCESS_KEY": "function",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
        }


class DataDirectory:
    """Where the server keeps everything; for its owner's eyes only."""

    def __init__(self, root: Path) -> None:
        """Create what is missing, with mode 0700."""
        self.root = root.expanduser().absolute()
        self.files = self.root / "files"
        self.jobs = self.root / "jobs"
        self.functions = self.root / "functions"
        self.objects = self.root / "objects"
        self.certificates = self.root / "tls"
        for directory in (self.root, self.files, self.jobs, self.functions, self.objects):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(directory, 0o700)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "state.db"

    @property
    def address(self) -> Path:
        """Where the server says its URL, for ``grpo console``."""
        return self.root / "url"

    def file(self, file_id: str) -> Path:
        """The bytes of an uploaded file; the id is one that the server made."""
        return self.files / file_id

    def run(self, job_id: str) -> Path:
        """The run directory of a job."""
        return self.jobs / job_id / "run"

    def function(self, name: str, sha256: str) -> Path:
        """The directory with the code of a registered function."""
        return self.functions / f"{name}-{sha256[:16]}"
