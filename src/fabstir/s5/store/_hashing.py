"""Hashing a blob in a single pass: every hash that the store needs."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from typing import Final

from fabstir.crypto import Blake3
from fabstir.s5.formats.limits import CHUNK_BYTES

_ALONE_BYTES: Final = 256 * 1024
"""Shorter blocks are hashed where they are written: changing threads costs as much, 0.1 ms."""

GROUP_BYTES: Final = CHUNK_BYTES
"""What is verified at a time when a part of a large blob is read."""


class BlobHasher:
    """The BLAKE3 of the whole, of each group of 256 KiB, and the SHA-256 where it is asked for.

    On one core 6.6 GB/s were measured for each of the two, against 2.6 GB/s for writing: so the two
    run beside each other and beside the writing, where there are cores for that.
    """

    def __init__(self, *, has_sha256: bool) -> None:
        self._whole = Blake3()
        self._group = Blake3()
        self._group_size = 0
        self._groups = bytearray()
        self._sha256 = hashlib.sha256() if has_sha256 else None
        self.size = 0

    def update(self, block: Sequence[memoryview]) -> None:
        """Take the next pieces, of any length."""
        self._update_whole(block)
        self._update_groups(block)

    @contextmanager
    def updating(self, block: Sequence[memoryview], threads: Executor) -> Generator[None]:
        """Take the next pieces while the block runs; they are taken when it is left."""
        if sum(map(len, block)) < _ALONE_BYTES:
            yield
            self.update(block)
            return
        running = [
            threads.submit(update, block) for update in (self._update_whole, self._update_groups)
        ]
        try:
            yield
        finally:
            wait(running)
        for each in running:
            each.result()

    def _update_whole(self, block: Sequence[memoryview]) -> None:
        for piece in block:
            self._whole.update(piece)
            if self._sha256 is not None:
                self._sha256.update(piece)
            self.size += len(piece)

    def _update_groups(self, block: Sequence[memoryview]) -> None:
        for piece in block:
            rest = piece
            while rest:
                part = rest[: GROUP_BYTES - self._group_size]
                self._group.update(part)
                self._group_size += len(part)
                rest = rest[len(part) :]
                if self._group_size == GROUP_BYTES:
                    self._groups += self._group.digest()
                    self._group, self._group_size = Blake3(), 0

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the whole."""
        return self._whole.digest()

    @property
    def sha256(self) -> bytes | None:
        """SHA-256 of the whole; None where it was not asked for."""
        return None if self._sha256 is None else self._sha256.digest()

    @property
    def groups(self) -> bytes:
        """BLAKE3 of each group, the last one maybe shorter, one after another."""
        last = self._group.digest() if self._group_size else b""
        return bytes(self._groups) + last
