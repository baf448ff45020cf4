"""The server's own API key: made once, shown once, stored as a hash. Touches: disk.

A key has 256 random bits, so a plain SHA-256 suffices: there is nothing to guess it by.
"""

import hashlib
import os
import secrets
from pathlib import Path

PREFIX = "grpo-"


def make() -> str:
    """A new key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def load_or_create(path: Path) -> tuple[str, str | None]:
    """The stored hash, and the key itself if it was made just now."""
    try:
        return path.read_text().strip(), None
    except FileNotFoundError:
        key = make()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(digest(key) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return digest(key), key
