"""Files that a power cut leaves whole, and that lead nobody astray: flushed, given their names, and
the names flushed too; made for their owner alone, and never by way of a link that somebody planted.

Here, beside `lock`, because every package that keeps state may import it. All of it blocks, and
raises OSError: which file of whose it is, the caller says.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from fabstir.config.plain_files import open_plain

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_PROBE_BYTES: Final = 64 * 1024
"""Twice what SQLite asks for to open a database (the 32 KiB of its `-shm`)."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class OpenToOthers(Exception):
    """A file that holds a secret can be used by more than its owner; carries its mode."""

    def __init__(self, mode: int) -> None:
        super().__init__(f"mode {mode:04o}")
        self.mode = mode


def is_full(error: OSError) -> bool:
    """Whether there was no room: on the disk, in a quota, or in a file as long as it may be."""
    return error.errno in _FULL


def free_bytes(folder: Path) -> int:
    """What this user may still write to the disk of a folder, or of where a file will be.

    Returns:
        0 where it cannot be known.
    """
    for place in (folder, *folder.parents):
        try:
            filesystem = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            break
        return filesystem.f_bavail * filesystem.f_frsize
    return 0


def has_room(folder: Path) -> bool:
    """Try to write a little. A quota, or files that ran out, are in no figure of the disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _PROBE_BYTES)
    except OSError as exc:
        return not is_full(exc)
    return True


def make_private_folder(folder: Path) -> None:
    """Make a folder and those above it, for their owner alone, whatever the umask says.

    One of ours that is there, and in which others may write, is closed to them: they could put
    links and files of theirs in the place of ours. What is shared on purpose, as /tmp is, stays.
    """
    if not folder.parent.is_dir():
        make_private_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
        is_open = found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX
        if is_open and found.st_uid == os.geteuid():
            folder.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS_WRITE)
    else:
        folder.chmod(0o700)


def open_own(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file of ours: never through a link, and only a plain one.

    Args:
        mode: what one that is made gets, less the umask.

    Raises:
        OSError: also ELOOP for a link, EINVAL for a pipe or a device, which may never answer, and
            EMLINK for what is to be written and has a second name: it is somebody's file.
    """
    try:
        descriptor = open_plain(path, flags | os.O_NOFOLLOW, mode)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", str(path)) from exc
        raise
    is_written = flags & (os.O_WRONLY | os.O_RDWR)
    if is_written and os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "it is another file's second name", str(path))
    return descriptor


def append_to(path: Path, mode: int = 0o600) -> BinaryIO:
    """A file of ours to add to, as `open_own`."""
    return os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode), "ab")


def write_own(path: Path, content: bytes) -> None:
    """Write a whole file of ours, as `open_own`. A kill may leave a part of it."""
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(content)


def read_secret(path: Path, max_bytes: int) -> bytes:
    """At most so much of a file that only its owner may read. A link is followed, as the secrets of
    containers are; what is looked at is what is read, whatever is put in its place meanwhile.

    Raises:
        OpenToOthers: group or others may use it.
    """
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if os.name == "posix" and mode & _OTHERS:
            raise OpenToOthers(mode)
        return file.read(max_bytes)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: without it a power cut may take back a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def install(part: Path, target: Path) -> None:
    """Flush a finished file and give it its name, in the same folder; replaces what has it."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    sync_folder(target.parent)


def replace_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read (mode 0600), instead of what is there.

    Only one at a time: who writes the same path meanwhile may find its own part gone.
    """
    with _private_part(path, content) as part:
        part.replace(path)
        _tidy(path)


def create_private(path: Path, content: bytes) -> bool:
    """Write a file that only its owner can read (mode 0600), and never overwrite one.

    Returns:
        Whether it was written; False: there is a file, perhaps of a process that was faster.
    """
    with _private_part(path, content) as part:
        try:
            path.hardlink_to(part)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if path.exists():  # the faster process took our part for one that a kill left
                return False
            raise
        part.unlink(missing_ok=True)
        _tidy(path)
    return True


@contextmanager
def _private_part(path: Path, content: bytes) -> Generator[Path]:
    """A flushed file beside `path`, which is gone when the block is left."""
    make_private_folder(path.parent)
    descriptor, name = tempfile.mkstemp(  # mode 0600 from its first byte on
        dir=path.parent, prefix=f".{path.name}-", suffix=".part"
    )
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def _tidy(path: Path) -> None:
    """Remove the parts that kills left: secrets should not lie about. Then make it durable."""
    for left_by_a_kill in path.parent.glob(f".{path.name}-*.part"):
        left_by_a_kill.unlink(missing_ok=True)
    sync_folder(path.parent)
