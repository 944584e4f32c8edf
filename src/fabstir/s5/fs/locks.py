"""One lock for each key, kept only while somebody wants it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio


class KeyedLocks:
    """Writers of one directory in one process wait for each other instead of colliding."""

    def __init__(self) -> None:
        self._locks: dict[bytes, tuple[anyio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: bytes) -> AsyncGenerator[None]:
        """Hold the key's lock for the block. It is not reentrant."""
        lock, num_users = self._locks.get(key, (anyio.Lock(), 0))
        self._locks[key] = lock, num_users + 1
        try:
            async with lock:
                yield
        finally:
            lock, num_users = self._locks.pop(key)
            if num_users > 1:
                self._locks[key] = lock, num_users - 1
