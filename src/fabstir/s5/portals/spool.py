"""A spool for bytes that are not verified yet, or that must be read twice.

Short ones stay in memory; longer ones go to a file without a name, so that not even SIGKILL leaves
any of it behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from anyio import to_thread

from fabstir.db.files import is_full
from fabstir.primitives.errors import StorageFull

SPOOL_MEMORY_BYTES: Final = 1024 * 1024
"""Longest spool that stays in memory."""

_PIECE_BYTES = 256 * 1024


class Spool:
    """Bytes that are appended, and read from any place."""

    def __init__(self, file: tempfile.SpooledTemporaryFile[bytes], folder: Path | None) -> None:
        self._file = file
        self._folder = folder
        self.size = 0

    async def write(self, piece: bytes) -> None:
        """Append.

        Raises:
            StorageFull: the disk has no room.
        """
        try:
            if self.size + len(piece) <= SPOOL_MEMORY_BYTES:
                self._file.write(piece)
            else:
                await to_thread.run_sync(self._file.write, piece)
        except OSError as exc:
            if not is_full(exc):
                raise
            place = self._folder or Path(tempfile.gettempdir())
            raise StorageFull(
                f"{place} has no room for a temporary copy of {self.size + len(piece)} bytes: "
                "free some, or name another folder"
            ) from exc
        self.size += len(piece)

    async def clear(self) -> None:
        """Forget everything."""
        await to_thread.run_sync(self._clear)

    def _clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size = 0

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes from `start` to before `end`, in pieces."""
        while start < end:
            piece = await self._read(start, min(_PIECE_BYTES, end - start))
            if not piece:
                return
            start += len(piece)
            yield piece

    async def _read(self, start: int, length: int) -> bytes:
        if self.size > SPOOL_MEMORY_BYTES:
            return await to_thread.run_sync(self._read_file, start, length)
        self._file.seek(start)
        piece = self._file.read(length)
        self._file.seek(0, os.SEEK_END)
        return piece

    def _read_file(self, start: int, length: int) -> bytes:
        self._file.flush()
        return os.pread(self._file.fileno(), length, start)


@asynccontextmanager
async def open_spool(folder: Path | None = None) -> AsyncGenerator[Spool]:
    """A spool for the length of the block. One task writes; then any number may read.

    Args:
        folder: for its file; None: the system's own for temporary files.
    """
    with tempfile.SpooledTemporaryFile(SPOOL_MEMORY_BYTES, dir=folder and str(folder)) as file:
        yield Spool(file, folder)
