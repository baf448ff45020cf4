"""What S3 asks of keys, digests, ranges and chunked bodies. Pure."""

import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import md5
from typing import Any
from urllib.parse import unquote

from botocore.httpchecksum import Crc32Checksum, Sha1Checksum, Sha256Checksum

from grpo.server.aws.errors import AwsError
from grpo.server.records import Object

Given = dict[str, Any]
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
LONGEST_KEY = 1024
CHECKSUMS = {"ChecksumCRC32": Crc32Checksum, "ChecksumSHA1": Sha1Checksum, "ChecksumSHA256": Sha256Checksum}
"""Those that botocore computes without another library."""


def checked_key(key: str) -> str:
    """Raises AwsError for one that S3 does not take."""
    if len(key.encode()) > LONGEST_KEY:
        raise AwsError("KeyTooLongError", "Your key is too long")
    return key


def source_of(copied: str) -> tuple[str, str]:
    """Bucket and key that a copy is made from. Raises AwsError."""
    path, _, query = copied.partition("?")
    if query:
        raise AwsError("NotImplemented", "CopySource with a versionId is not implemented here", 501)
    bucket, _, key = unquote(path).removeprefix("/").partition("/")
    return bucket, key


def unchanged(etag: str | None, found: Object) -> None:
    """Raises AwsError for another object than the one that was asked for."""
    if etag not in (None, found.etag, "*"):
        raise AwsError("PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412)


def check_digest(given: Given, content: bytes) -> None:
    """Compare the content with each digest that the client sent. Raises AwsError."""
    expected = given.get("ContentMD5")
    found = base64.b64encode(md5(content, usedforsecurity=False).digest()).decode()
    if expected is not None and expected != found:
        raise AwsError("BadDigest", "The Content-MD5 you specified did not match what we received.")
    for name, kind in CHECKSUMS.items():
        if name in given:
            checksum = kind()
            checksum.update(content)
            if checksum.b64digest() != given[name]:
                raise AwsError("BadDigest", f"The {name.removeprefix('Checksum')} you specified did not match.")


def echoed(given: Given) -> Given:
    """The checksums that came with a content and hold for it."""
    return {name: given[name] for name in CHECKSUMS if name in given}


def wanted_range(asked: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte; None: all of it. Raises AwsError for a range that begins behind the end."""
    match = RANGE.fullmatch(asked) if asked else None
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        raise AwsError("InvalidRange", "The requested range is not satisfiable", 416)
    return start, end


def folder_of(key: str, prefix: str, delimiter: str) -> str:
    """The key up to the first delimiter behind the prefix; empty where there is none."""
    if not delimiter:
        return ""
    at = key.find(delimiter, len(prefix))
    return key[: at + len(delimiter)] if at >= 0 else ""


def listing(entry: Object, encode: Callable[[str], str]) -> Given:
    """An object's entry in a list."""
    return {
        "Key": encode(entry.key),
        "LastModified": when(entry.created_at),
        "ETag": entry.etag,
        "Size": entry.bytes,
        "StorageClass": "STANDARD",
    }


def when(seconds: int) -> datetime:
    """As moto's serialisers want times."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def dechunked(body: bytes) -> bytes:
    """The content of a body in ``aws-chunked`` encoding. Chunk signatures and trailers are not checked.

    docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html. Raises AwsError.
    """
    pieces: list[bytes] = []
    rest: memoryview = memoryview(body)
    while True:
        head = bytes(rest[:1024]).partition(b"\r\n")[0]
        size = head.partition(b";")[0]
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            raise AwsError("IncompleteBody", "The body is not in aws-chunked encoding")
        length, start = int(size, 16), len(head) + 2
        if length == 0:
            return b"".join(pieces)
        if len(rest) < start + length + 2:
            raise AwsError("IncompleteBody", "The body ends inside a chunk")
        pieces.append(bytes(rest[start : start + length]))
        rest = rest[start + length + 2 :]
