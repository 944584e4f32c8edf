"""Files that a power cut leaves whole: flushed, given their names, and the names flushed too.

Here, beside `lock`, because every package that keeps state may import it. All of it blocks, and
raises OSError: which file of whose it is, the caller says.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Whether there was no room: on the disk, in a quota, or in a file as long as it may be."""
    return error.errno in _FULL


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
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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
