"""Registering reward functions: a file or a zip becomes a directory that no one changes. Touches: disk."""

import hashlib
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from grpo.errors import RewardError
from grpo.server.records import Function
from grpo.server.settings import DataDirectory
from grpo.server.store import Store

NAME = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
HANDLER = re.compile(r"^[A-Za-z0-9_-]+(?:[/.][A-Za-z0-9_-]+)*\.[A-Za-z_][A-Za-z0-9_]*$")
LARGEST = 250 * 2**20
"""Unzipped, as at Lambda."""
MOST_ENTRIES = 10_000


def deploy(
    store: Store,
    data: DataDirectory,
    name: str,
    source: Path,
    *,
    handler: str | None,
    timeout_s: float,
    memory_mb: int,
    environment: dict[str, str],
    network: bool,
) -> Function:
    """Copy the code and register it under ``name``; what ran under that name before stays for the jobs that use it.

    ``handler`` is MODULE.FUNCTION; the default is lambda_handler of the file, or of lambda_function in a zip.
    Raises RewardError.
    """
    if not NAME.match(name):
        raise RewardError(f"{name!r}: a function's name has up to 64 letters, digits, - and _")
    if not source.is_file():
        raise RewardError(f"{source}: no such file. Name a .py file or a .zip")
    packed = source.suffix == ".zip"
    handler = handler or f"{'lambda_function' if packed else source.stem}.lambda_handler"
    if not HANDLER.match(handler):
        raise RewardError(f"handler {handler!r}: expected MODULE.FUNCTION, for instance reward.lambda_handler")
    module = f"{handler.rpartition('.')[0].replace('.', '/')}.py"
    content = source.read_bytes()
    sha256 = hashlib.sha256(content + handler.encode()).hexdigest()
    target = data.function(name, sha256)
    if not target.exists():
        partial = target.with_name(f"partial-{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o755)
        unzip(source, partial) if packed else _write(partial / module, content)
        if not (partial / module).is_file():
            shutil.rmtree(partial)
            raise RewardError(f"{source}: it has no {module}; set --handler MODULE.FUNCTION")
        partial.rename(target)
    function = Function(
        name=name,
        sha256=sha256,
        handler=handler,
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        environment=environment,
        network=network,
        created_at=int(time.time()),
    )
    store.functions.put(function)
    return function


def unzip(source: Path, target: Path) -> None:
    """Only plain files below ``target``, and not more than Lambda would take. Raises RewardError."""
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MOST_ENTRIES or sum(entry.file_size for entry in entries) > LARGEST:
                raise RewardError(f"{source}: more than {MOST_ENTRIES} files or {LARGEST >> 20} MiB unzipped")
            for entry in entries:
                _check(source, entry)
                with archive.open(entry) as packed:
                    _write(target / entry.filename, packed.read(entry.file_size + 1))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, FileExistsError) as error:
        raise RewardError(f"{source}: not a zip file that can be unpacked ({error})") from None


def _check(source: Path, entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or kind not in (0, stat.S_IFREG):
        raise RewardError(f"{source}: {entry.filename!r} is not a plain file inside the archive")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
