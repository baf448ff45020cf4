"""What the server stores, as frozen records. Times are seconds since 1970; ids are made by the server."""

from dataclasses import dataclass, field
from typing import Any

VALIDATING, QUEUED, RUNNING, PAUSED = "validating_files", "queued", "running", "paused"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
NEXT: dict[str, frozenset[str]] = {
    VALIDATING: frozenset({QUEUED, FAILED, CANCELLED}),
    QUEUED: frozenset({RUNNING, PAUSED, CANCELLED}),
    RUNNING: frozenset({SUCCEEDED, FAILED, CANCELLED, PAUSED}),
    PAUSED: frozenset({QUEUED, CANCELLED}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
}
"""The legal transitions of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """An uploaded file; its bytes lie in the data directory under its id."""

    id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None = None
    rows: int | None = None
    """Prompts in it; None where the purpose is not fine-tuning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A fine-tuning job."""

    id: str
    status: str
    created_at: int
    model: str
    """As the request named it."""
    local_model: str
    """Directory of the base model it stands for."""
    training_file: str
    validation_file: str | None
    seed: int
    method: dict[str, Any]
    """As the request had it."""
    settings: dict[str, Any]
    """The run's configuration, all paths but the run directory's included."""
    suffix: str | None = None
    metadata: dict[str, str] | None = None
    started_at: int | None = None
    finished_at: int | None = None
    attempt: int = 0
    """Workers started so far; the number fences an older one out."""
    error: dict[str, Any] | None = None
    verdict: dict[str, Any] | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None

    @property
    def total_steps(self) -> int:
        """The step budget."""
        steps: int = self.settings["run"]["steps"]
        return steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of a job's log."""

    id: str
    job_id: str
    created_at: int
    level: str
    message: str
    type: str = "message"
    data: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint of a job, callable as a model by ``model``."""

    id: str
    job_id: str
    step: int
    created_at: int
    model: str
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A tuned model: an adapter of a base model."""

    id: str
    job_id: str
    base: str
    """Directory of the base model."""
    adapter: str
    """Directory of the adapter."""
    rank: int
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A registered reward function; its code lies in the data directory under name and digest."""

    name: str
    sha256: str
    handler: str
    timeout_s: float
    memory_mb: int
    environment: dict[str, str]
    network: bool
    created_at: int
    runtime: str | None = None
    """As Lambda's client named it; here it is the Python that runs the server."""
    role: str | None = None
    description: str | None = None
    code_sha256: str | None = None
    """In base64, of the archive or file that was registered."""
    code_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """What lies in a bucket under a key; its bytes lie in the data directory under ``blob``."""

    bucket: str
    key: str
    blob: str
    bytes: int
    etag: str
    content_type: str
    metadata: dict[str, str]
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipart:
    """An object that arrives in parts."""

    id: str
    bucket: str
    key: str
    content_type: str
    metadata: dict[str, str]
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of them."""

    multipart: str
    number: int
    blob: str
    bytes: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that a function printed."""

    group: str
    stream: str
    at_ms: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Customization:
    """What Bedrock's native API keeps of a job beside the job itself."""

    job_id: str
    name: str
    model_name: str
    region: str
    request: dict[str, Any]
    """As it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A tuned model under a name to call it by."""

    id: str
    name: str
    model_arn: str
    region: str
    description: str | None
    created_at: int
    updated_at: int
