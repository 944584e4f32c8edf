"""A lock file that names its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fabstir.primitives.errors import ConfigError

_MAX_PID_BYTES = 32
_ADVICE = "stop that process, or give this one another data folder"


@contextmanager
def locked(path: Path, *, what: str, advice: str = _ADVICE) -> Generator[None]:
    """Hold `path` for the length of the block; the kernel lets go of it when the process dies.

    The file stays behind: removing it would let two processes lock two files of one name.

    Raises:
        ConfigError: another process holds it, or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise ConfigError(f"{what} cannot be opened: {exc.strerror}: {path}") from exc
    try:
        _take(descriptor, path, what, advice)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, what: str, advice: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = os.pread(descriptor, _MAX_PID_BYTES, 0).decode(errors="replace").strip()
        raise ConfigError(
            f"{what} is in use by process {holder or 'unknown'} (lock file {path}): {advice}"
        ) from exc
