"""Ctrl-C and SIGTERM: an end in order where a command waits for it, else at once."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio


class Interruption:
    """Whether somebody wants the command to end.

    Attributes:
        is_forced: it did not wait to be asked, or was asked twice.
    """

    def __init__(self) -> None:
        self.is_forced = False
        self._is_awaited = False
        self._came = anyio.Event()

    async def wait(self) -> None:
        """Until the first signal; what follows is the orderly end."""
        self._is_awaited = True
        await self._came.wait()

    def came(self) -> None:
        """A signal came."""
        self.is_forced = self._came.is_set() or not self._is_awaited
        self._came.set()


@asynccontextmanager
async def until_interrupted() -> AsyncGenerator[Interruption]:
    """Watch for SIGINT and SIGTERM for the length of the block.

    A signal before the block waits for one, or a second one, cancels the block: everything that
    is open in it is left properly, but without waiting for anything.

    Raises:
        KeyboardInterrupt: the block was cancelled so.
    """
    interruption = Interruption()
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    interruption.came()
                    if interruption.is_forced:
                        tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        yield interruption
        tasks.cancel_scope.cancel()
    if interruption.is_forced:
        raise KeyboardInterrupt
