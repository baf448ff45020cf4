"""Who may look: a one-time code, brought by a link, becomes a cookie. Touches: disk.

The server's key never reaches a page, and no secret a URL that is sent: the code stands behind the # of the link, and
the page posts it. The cookie is signed with a secret of the data directory, so that a restart logs nobody out.
"""

import hashlib
import hmac
import secrets
import time
from pathlib import Path

from grpo.runlog import write_atomic

COOKIE = "grpo_console"
SESSION_S, CODE_S = 30 * 86_400, 900
PRIVATE = 0o600


class Gate:
    """The codes and cookies of one server."""

    def __init__(self, directory: Path, secure: bool) -> None:
        """``secure``: whether the browser sends the cookie over HTTPS only."""
        self.directory, self.secure = directory, secure
        self._secret = _load_or_create(directory / "secret")

    def new_code(self) -> str:
        """A code for one login within a quarter of an hour; one before it is void."""
        code = secrets.token_urlsafe(32)
        write_atomic(self.directory / "code", f"{int(time.time()) + CODE_S}:{_digest(code)}", PRIVATE)
        return code

    def link(self, url: str) -> str:
        """What to open for a login, of a server at ``url``."""
        return f"{url}/#login={self.new_code()}"

    def redeem(self, code: str) -> str | None:
        """The cookie's value for a code, once; None for any other."""
        path = self.directory / "code"
        try:
            until, _, digest = path.read_text().partition(":")
        except FileNotFoundError:
            return None
        if not hmac.compare_digest(_digest(code), digest) or time.time() > int(until):
            return None
        path.unlink()
        return self._signed(int(time.time()) + SESSION_S)

    def accepts(self, cookie: str) -> bool:
        """Whether a cookie is one of ours, and still good."""
        until = cookie.partition(".")[0]
        if not (until.isascii() and until.isdigit() and len(until) < 12):
            return False
        return hmac.compare_digest(cookie, self._signed(int(until))) and time.time() < int(until)

    def _signed(self, until: int) -> str:
        return f"{until}.{hmac.new(self._secret, str(until).encode(), hashlib.sha256).hexdigest()}"


def _load_or_create(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        write_atomic(path, secrets.token_hex(32), PRIVATE)
    return bytes.fromhex(path.read_text())


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
