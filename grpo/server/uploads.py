"""Multipart bodies, written to disk while they arrive; an upload that breaks off leaves nothing. Touches: disk."""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from grpo.server.errors import Invalid, TooLarge

MOST_PARTS = 16
LONGEST_FIELD = 4096
LONGEST_PART_HEADER = 8192


@dataclass(slots=True)
class Upload:
    """What arrived: text fields, and at most one file, complete and synced at ``path`` under a temporary name."""

    path: Path
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    """As the client called it; None where there was no file."""
    bytes: int = 0
    sha256: str = ""


async def receive(content_type: str, body: AsyncIterator[bytes], directory: Path, largest: int) -> Upload:
    """Read a multipart body with one part called ``file``. The caller moves or removes ``path``.

    Raises Invalid for a body that is no such thing or ends early, TooLarge for a file above ``largest``.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Invalid("expected multipart/form-data with a boundary")
    path = directory / f"partial-{secrets.token_hex(16)}"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            form = _Form(Upload(path), target, largest)
            parser = MultipartParser(options[b"boundary"], form.callbacks())
            async for chunk in body:
                parser.write(chunk)
            if not form.ended:
                raise Invalid("the body ends before its last boundary")
            target.flush()
            os.fsync(target.fileno())
        form.upload.sha256 = form.hash.hexdigest()
    except FormParserError as error:
        path.unlink(missing_ok=True)
        raise Invalid(f"not a valid multipart body: {error}") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return form.upload


class _Form:
    """Collects the parts of one body as the parser reports them."""

    def __init__(self, upload: Upload, target: Any, largest: int) -> None:
        self.upload, self.target, self.largest = upload, target, largest
        self.hash = hashlib.sha256()
        self.ended = False
        self.parts = 0

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self.begin,
            "on_header_field": self.header_name,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_part_data": self.data,
            "on_part_end": self.part_end,
            "on_end": self.end,
        }

    def begin(self) -> None:
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise TooLarge(f"more than {MOST_PARTS} parts")
        self.headers: dict[bytes, bytes] = {}
        self.name, self.value, self.content, self.header_bytes = b"", b"", b"", 0

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self.name += self._limited(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += self._limited(data[start:end])

    def _limited(self, piece: bytes) -> bytes:
        self.header_bytes += len(piece)
        if self.header_bytes > LONGEST_PART_HEADER:
            raise TooLarge(f"a part has more than {LONGEST_PART_HEADER} bytes of headers")
        return piece

    def header_end(self) -> None:
        self.headers[self.name.lower()] = self.value
        self.name = self.value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        self.field = options.get(b"name", b"").decode("utf-8", "replace")
        self.is_file = self.field == "file"
        if not self.is_file:
            return
        if self.upload.filename is not None:
            raise Invalid("more than one part called file", param="file")
        self.upload.filename = options.get(b"filename", b"file").decode("utf-8", "replace")

    def data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if not self.is_file:
            self.content += piece
            if len(self.content) > LONGEST_FIELD:
                raise TooLarge(f"{self.field[:64]} is longer than {LONGEST_FIELD} bytes", param=self.field[:64])
            return
        self.upload.bytes += len(piece)
        if self.upload.bytes > self.largest:
            raise TooLarge(f"the file is larger than {self.largest} bytes", param="file")
        self.hash.update(piece)
        self.target.write(piece)

    def part_end(self) -> None:
        if self.is_file:
            return
        if self.field in self.upload.fields:
            raise Invalid(f"more than one part called {self.field[:64]}", param=self.field[:64])
        self.upload.fields[self.field] = self.content.decode("utf-8", "replace")

    def end(self) -> None:
        self.ended = True
