"""A lock file that names its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from fabstir.db.files import is_full, make_private_folder, open_own
from fabstir.primitives.errors import ConfigError, StorageFull

_MAX_PID_BYTES = 32
_ADVICE = "stop that process, or give this one another data folder"


@contextmanager
def locked(path: Path, *, what: str, advice: str = _ADVICE) -> Generator[None]:
    """Hold `path` for the length of the block; the kernel lets go of it when the process dies.

    The file stays behind: removing it would let two processes lock two files of one name.

    Raises:
        ConfigError: another process holds it, or it cannot be opened: its folder cannot be
            written, or somebody put a link in its place.
        StorageFull: the disk has no room for it.
    """
    try:
        make_private_folder(path.parent)
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as exc:
        if is_full(exc):
            raise StorageFull(
                f"{what} cannot be opened: the disk of {path.parent} is full: free disk space, and "
                "do it again"
            ) from exc
        raise ConfigError(f"{what} cannot be opened: {exc.strerror}: {path}") from exc
    try:
        _take(descriptor, path, what, advice)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    """Name the holder; a full disk may have no room even for that."""
    name = f"{os.getpid()}\n".encode()
    with suppress(OSError):
        os.pwrite(descriptor, name, 0)
        os.ftruncate(descriptor, len(name))


def _take(descriptor: int, path: Path, what: str, advice: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = os.pread(descriptor, _MAX_PID_BYTES, 0).decode(errors="replace").strip()
        raise ConfigError(
            f"{what} is in use by process {holder or 'unknown'} (lock file {path}): {advice}"
        ) from exc
