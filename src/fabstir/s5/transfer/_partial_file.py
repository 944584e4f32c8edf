"""The file of an unfinished upload, written and flushed in worker threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from fabstir.db.files import is_full, sync_folder
from fabstir.primitives.errors import StorageError, StorageFull

GATHER_BYTES: Final = 1 << 20
"""Bytes handed to a worker thread at once: a hand-over costs some 0.1 ms."""


class PartialFile:
    """An open file that grows from a known length.

    Its steps run in worker threads, and a task that asyncio itself cancels does not wait for its
    thread: so `close` does, and no later step does anything.

    Attributes:
        size: bytes that it has, those still in memory included.
    """

    def __init__(self, descriptor: int, path: Path, size: int, algorithm: str | None) -> None:
        self._descriptor = descriptor
        self._path = path
        self._digest = hashlib.new(algorithm, usedforsecurity=False) if algorithm else None
        self._gathered = bytearray()
        self._lock = threading.Lock()
        self._refusal = ""
        self.size = size

    @property
    def digest(self) -> bytes:
        """Of what was appended and flushed since it was opened; empty without an algorithm."""
        return b"" if self._digest is None else self._digest.digest()

    async def append(self, data: bytes) -> None:
        """Raises StorageFull, StorageError; `size` then says how much was written."""
        self._gathered += data
        self.size += len(data)
        if len(self._gathered) >= GATHER_BYTES:
            await to_thread.run_sync(self._write)

    async def flush(self) -> None:
        """Until the bytes are on disk. Raises as `append`; what failed once fails from then on."""
        await to_thread.run_sync(self._flush)

    def close(self) -> None:
        """What was not flushed is lost."""
        with self._lock:
            self._refusal = "it was closed"
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)

    def _flush(self) -> None:
        self._write()
        with self._step():
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                # The kernel tells of lost pages once, and calls them clean from then on: the next
                # flush would succeed, and acknowledge what is not there.
                self._refusal = f"flushing it failed ({error.strerror})"
                raise

    def _write(self) -> None:
        with self._step():
            data, self._gathered = self._gathered, bytearray()
            if self._digest is not None:
                self._digest.update(data)
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            finally:
                self.size -= len(rest)  # what found no room

    @contextmanager
    def _step(self) -> Generator[None]:
        with self._lock, disk_errors(self._path):
            if self._refusal:
                raise StorageError(f"{self._path} is not gone on with: {self._refusal}")
            yield


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Name what the disk refuses: StorageFull or StorageError."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StorageFull(
                f"the disk of {path.parent} is full: free space, and resume the upload"
            ) from error
        raise StorageError(f"{path} cannot be used: {error.strerror or error}") from error


@asynccontextmanager
async def open_partial(path: Path, size: int, algorithm: str | None) -> AsyncGenerator[PartialFile]:
    """Open for appending at `size`: what a cut-off request left beyond was never acknowledged.

    Args:
        algorithm: of hashlib, for `digest`.

    Raises:
        StorageError: the file cannot be opened, or is shorter than it was.
    """
    descriptor = await to_thread.run_sync(_open, path, size)
    file = PartialFile(descriptor, path, size, algorithm)
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(file.close)


def _open(path: Path, size: int) -> int:
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            _require_size(descriptor, path, size)
            os.ftruncate(descriptor, size)
            os.lseek(descriptor, size, os.SEEK_SET)
            if not size:  # nothing is acknowledged yet: its name may be as new
                sync_folder(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _require_size(descriptor: int, path: Path, size: int) -> None:
    if os.fstat(descriptor).st_size < size:
        raise StorageError(f"{path} is shorter than it was: begin the upload again")
