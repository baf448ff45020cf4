"""Any dataset that the ``datasets`` library reads in, a prompt file out. Touches: disk, network (the Hub).

A training reads files only: what it was trained on lies on the disk, under a digest, whatever becomes of its source.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from huggingface_hub.errors import HfHubHTTPError

from grpo.errors import ConfigError, DataError
from grpo.rows import RowError, check_row

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which column becomes what."""

    prompt: str | None = None
    """Text, the user's message; None where ``messages`` is given."""
    messages: str | None = None
    """A list of {role, content}."""
    reference: str | None = None
    keep: tuple[str, ...] = ()
    """Handed to the reward function as metadata, under their own names."""
    system: str | None = None
    """A text put before every prompt."""

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ConfigError("name one of --prompt and --messages: the column the prompts are in")

    def named(self) -> list[str]:
        """Those the dataset must have."""
        return [name for name in (self.prompt, self.messages, self.reference, *self.keep) if name]

    def row(self, example: dict[str, Any]) -> dict[str, Any]:
        """One line of a prompt file."""
        found = example[self.messages or self.prompt or ""]
        messages = found if self.messages else [{"role": "user", "content": found}]
        if self.system is not None and isinstance(messages, list):
            messages = [{"role": "system", "content": self.system}, *messages]
        row = {name: example[name] for name in self.keep} | {"messages": messages}
        return row | ({"reference_answer": example[self.reference]} if self.reference else {})


def open_source(source: str, name: str | None, split: str) -> Iterable[dict[str, Any]]:
    """A local file, a directory (saved by ``save_to_disk``, or of data files), or a dataset of the Hub, row by row.

    Raises DataError when there is no such dataset, configuration or split.
    """
    path = Path(source)
    found: Any
    try:
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            found = load_from_disk(source)
            found = _split(found, split) if isinstance(found, DatasetDict) else found
        elif path.is_file():
            if path.suffix not in FORMATS:
                raise DataError(f"{source}: expected one of {', '.join(FORMATS)}")
            found = load_dataset(FORMATS[path.suffix], data_files=source, split="train", streaming=True)
        else:
            found = load_dataset(source, name, split=split, streaming=True)
    except (FileNotFoundError, HfHubHTTPError, ConnectionError, ValueError) as error:
        raise DataError(f"{source}: {error}") from None
    examples: Iterable[dict[str, Any]] = found
    return examples


def _split(found: DatasetDict, split: str) -> Dataset:
    if split not in found:
        raise DataError(f"no split called {split!r}; it has {', '.join(found)}")
    return found[split]


def rows(examples: Iterable[dict[str, Any]], columns: Columns, skip: int, most: int | None) -> Iterator[bytes]:
    """Lines of a prompt file. Raises DataError that names the row and the column."""
    for number, example in enumerate(islice(examples, skip, None if most is None else skip + most), skip):
        if missing := [name for name in columns.named() if name not in example]:
            raise DataError(f"no column called {missing[0]!r}; there are {', '.join(example)}")
        try:
            line = json.dumps(columns.row(example), allow_nan=False).encode()
            check_row(line)
        except (TypeError, ValueError, RowError) as error:
            raise DataError(f"row {number}: {error}") from None
        yield line + b"\n"


def write(lines: Iterable[bytes], out: Path) -> int:
    """All lines into a new file, which appears when it is complete; how many. Raises DataError where it exists."""
    if out.exists():
        raise DataError(f"{out}: exists already. Name another file, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    count = 0
    try:
        with partial.open("wb") as file:
            for line in lines:
                file.write(line)
                count += 1
        if not count:
            raise DataError(f"{out}: the source has no rows there")
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return count
