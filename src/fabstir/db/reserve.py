"""Room that is kept in a file, to be given back to a disk that is full.

SQLite needs some to open a database (32 KiB), and some more to take rows out of it. So where the
disk is full nothing could be removed from it, and what moves money could not be noted. The file
also says that a database was begun beside it: one that is missing or empty later was lost.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fabstir.db.files import open_own

_NUM_PARTS: Final = 16
"""As many of these as there is room for; one of 1 MiB still opens a database."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """The file. Its methods block; they may be called from any thread."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        self.num_bytes = num_bytes
        self._lock = threading.Lock()
        self._is_whole = False

    @property
    def was_begun(self) -> bool:
        """Whether the database beside it was ever begun."""
        return os.path.lexists(self.path)

    def fill(self) -> bool:
        """Take the room, or as much of it as there is.

        Returns:
            Whether the disk has room for all of it. True also where the disk cannot keep room at
            all, or not so much in one file.
        """
        with self._lock:
            if not self._is_whole:
                try:
                    self._is_whole = self._take()
                except OSError as exc:
                    return exc.errno not in _NO_ROOM
            return self._is_whole

    def _take(self) -> bool:
        """Raises OSError: the disk keeps no room for anybody; ENOSPC: it has no room for more."""
        descriptor = open_own(self.path, os.O_WRONLY | os.O_CREAT)
        try:
            had = os.fstat(descriptor).st_size
            for num_parts in range(_NUM_PARTS, 0, -1):
                num_bytes = self.num_bytes * num_parts // _NUM_PARTS
                if num_parts < _NUM_PARTS and had >= num_bytes:
                    return False
                try:
                    os.posix_fallocate(descriptor, 0, num_bytes)
                except OSError as exc:
                    # Some disks keep what they had found until they found no more.
                    os.ftruncate(descriptor, had)
                    if exc.errno not in _NO_ROOM:
                        raise
                else:
                    return num_parts == _NUM_PARTS
            return False
        finally:
            os.close(descriptor)

    @contextmanager
    def filled_at_last(self) -> Generator[None]:
        """Take it again when the block is left: what the database's own files had is free then."""
        try:
            yield
        finally:
            if self.was_begun:
                self.fill()

    def spend(self) -> bool:
        """Give the room to whoever writes next; the empty file stays.

        Returns:
            Whether there was any.
        """
        had_some = False
        with self._lock, suppress(OSError):
            self._is_whole = False
            descriptor = open_own(self.path, os.O_WRONLY)
            try:
                had_some = os.fstat(descriptor).st_size > 0
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)
        return had_some
