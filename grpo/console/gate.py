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

COOKIE = "grpo_console_"
SESSION_S, CODE_S, MOST_CODES = 30 * 86_400, 900, 8
PRIVATE = 0o600


class Gate:
    """The codes and cookies of one server."""

    def __init__(self, directory: Path, secure: bool) -> None:
        """``secure``: whether the browser sends the cookie over HTTPS only."""
        self.directory, self.secure = directory, secure
        self._secret = _load_or_create(directory / "secret")
        self.cookie = COOKIE + hashlib.sha256(self._secret).hexdigest()[:8]
        """Its name. Cookies know no ports: another server on this machine has another one."""

    def new_code(self) -> str:
        """A code for one login within a quarter of an hour; some before it are good still."""
        code = secrets.token_urlsafe(32)
        told = [*self._codes(), f"{int(time.time()) + CODE_S}:{_digest(code)}"]
        write_atomic(self.directory / "code", "\n".join(told[-MOST_CODES:]), PRIVATE)
        return code

    def link(self, url: str) -> str:
        """What to open for a login, of a server at ``url``."""
        return f"{url}/#login={self.new_code()}"

    def redeem(self, code: str) -> str | None:
        """The cookie's value for a code, once; None for any other."""
        codes = self._codes()
        mine = [one for one in codes if hmac.compare_digest(_digest(code), one.partition(":")[2])]
        if not mine:
            return None
        write_atomic(self.directory / "code", "\n".join(one for one in codes if one not in mine), PRIVATE)
        return self._signed(int(time.time()) + SESSION_S)

    def _codes(self) -> list[str]:
        """Those that are good, each with the time that it is good until."""
        path = self.directory / "code"
        found = path.read_text().split() if path.exists() else []
        return [one for one in found if int(one.partition(":")[0]) >= time.time()]

    def accepts(self, cookie: str) -> bool:
        """Whether a cookie is one of ours, and still good."""
        until = cookie.partition(".")[0]
        if not (until.isascii() and until.isdigit() and len(until) < 12):
            return False
        return hmac.compare_digest(cookie.encode(), self._signed(int(until)).encode()) and time.time() < int(until)

    def _signed(self, until: int) -> str:
        return f"{until}.{hmac.new(self._secret, str(until).encode(), hashlib.sha256).hexdigest()}"


def _load_or_create(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        write_atomic(path, secrets.token_hex(32), PRIVATE)
    return bytes.fromhex(path.read_text())


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
