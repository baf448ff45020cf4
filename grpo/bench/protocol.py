"""A protocol: which training to run, how often, and what was published of it. Touches: disk (read).

A protocol is one TOML file in ``configs/bench``; its training is an ordinary configuration, its published points a data
file that names a source for each of them (docs/benchmarks.md).
"""

import tomllib
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from grpo.config import Config
from grpo.config import load as load_config
from grpo.errors import ConfigError
from grpo.sections import Reward, Section

FOLDER = Path("configs") / "bench"
Metric = Literal["train_reward", "heldout_reward", "test_reward", "completion_tokens", "entropy", "grad_norm"]
Table = TypeVar("Table", bound=BaseModel)


class Variant(Section):
    """One cell of a protocol that has several, as a sweep has."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=-]*$")
    """Also the name of its directory."""
    set: tuple[str, ...] = ()
    """Overrides of the training, ``section.key=value``."""


class Claims(Section):
    """What a reader must know before comparing anything."""

    published: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()
    """What the publication leaves open, and what was taken instead."""
    not_comparable: tuple[str, ...] = ()


class Source(Section):
    """Where a number was published."""

    title: str
    url: str


class Point(Section):
    """One published number, or the range it lies in."""

    metric: Metric
    source: str
    """Key of ``sources``."""
    how: str
    """Read from what: prose, a table, an event."""
    variant: str | None = None
    """Of the protocol; None: of all."""
    step: int | None = Field(None, ge=0)
    """Updates made; None: at the end."""
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Point":
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        return self


class End(Section):
    """How long the published training was."""

    source: str
    steps: int | None = None
    gpu_hours: float | None = None
    hardware: str | None = None


class Published(Section):
    """A data file of ``configs/bench/published``."""

    sources: dict[str, Source]
    points: tuple[Point, ...] = ()
    end: End | None = None

    @model_validator(mode="after")
    def _sourced(self) -> "Published":
        named = {point.source for point in self.points} | ({self.end.source} if self.end else set())
        if unknown := named - set(self.sources):
            raise ValueError(f"no source of that name: {', '.join(sorted(unknown))}")
        return self


class Protocol(Section):
    """A file of ``configs/bench``."""

    title: str
    config: Path
    """The training, as ``grpo train`` takes it."""
    needs: Literal["cpu", "gpu"]
    """Where it can finish."""
    prepare: str | None = None
    """The command that makes its prompt files, where they do not come with the project."""
    published: Path | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    variants: tuple[Variant, ...] = (Variant(name="only"),)
    measures: dict[str, Reward] = Field({})
    """Graders by name, for instance strict and lenient, that score the test completions besides the reward."""
    claims: Claims = Claims()

    @model_validator(mode="after")
    def _distinct(self) -> "Protocol":
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"variants: two have the same name: {', '.join(names)}")
        return self

    def training(self, variant: Variant, seed: int, directory: Path, overrides: Seq[str] = ()) -> Config:
        """The configuration of one of its runs. Raises ConfigError."""
        return load_config(self.config, self.overrides(variant, seed, directory, overrides))

    def overrides(self, variant: Variant, seed: int, directory: Path, overrides: Seq[str] = ()) -> list[str]:
        """What one of its runs changes in the configuration; the caller's come last."""
        return [*variant.set, *overrides, f"run.seed={seed}", f"run.dir={directory}"]


def path_of(name: str) -> Path:
    """The file of a protocol that is given by its path or by its name. Raises ConfigError."""
    known = sorted(FOLDER.glob("*.toml"))
    for path in (Path(name), FOLDER / f"{name}.toml"):
        if path.is_file():
            return path
    names = ", ".join(path.stem for path in known) or f"none: {FOLDER} is not below this directory"
    raise ConfigError(f"{name}: no such protocol. Known by name: {names}")


def load(path: Path) -> Protocol:
    """A protocol's file. Raises ConfigError."""
    return _read(path, Protocol)


def load_published(protocol: Protocol) -> Published:
    """What was published of a protocol; without points where nothing was. Raises ConfigError."""
    if protocol.published is None:
        return Published(sources={})
    published = _read(protocol.published, Published)
    names = {variant.name for variant in protocol.variants}
    if unknown := {point.variant for point in published.points} - names - {None}:
        raise ConfigError(f"{protocol.published}: points of variants the protocol does not have: {unknown}")
    return published


def _read(path: Path, form: type[Table]) -> Table:
    try:
        return form.model_validate(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except ValidationError as error:
        problems = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {error.error_count()} problem(s)\n{problems}") from None
