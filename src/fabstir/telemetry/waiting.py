"""How tasks of one process wait for one another: for a change, for a call, for a key's turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

import anyio


class Changes:
    """Tells all who wait that something changed; who waits afterwards waits for the next time."""

    def __init__(self) -> None:
        self._next = anyio.Event()

    def tell(self) -> None:
        """It changed."""
        told, self._next = self._next, anyio.Event()
        told.set()

    @property
    def next(self) -> anyio.Event:
        """Set with the next change. Take it before you look, and no change between looking and
        waiting is missed."""
        return self._next

    async def wait(self) -> None:
        """Until the next change."""
        await self._next.wait()


class Wakeup:
    """One task sleeps, others wake it; a call that comes while it is awake is not forgotten."""

    def __init__(self) -> None:
        self._called = anyio.Event()

    def wake(self) -> None:
        """End its sleep, or the next one at once."""
        self._called.set()

    async def sleep(self, seconds: float | None = None) -> bool:
        """Sleep until it is called, or for so long. Returns whether it was called."""
        with anyio.move_on_after(seconds):
            await self._called.wait()
        is_called = self._called.is_set()
        self._called = anyio.Event()
        return is_called


class KeyedLocks:
    """One lock a key, there while somebody wants it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[anyio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncGenerator[None]:
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
