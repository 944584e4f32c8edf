"""Ctrl-C and SIGTERM as something to wait for, so that what is open is left in order."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio


@asynccontextmanager
async def until_interrupted() -> AsyncGenerator[anyio.Event]:
    """Yields an event that the first SIGINT or SIGTERM sets; a second one ends the block at once.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    interrupted = anyio.Event()

    async def watch() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                if interrupted.is_set():
                    raise KeyboardInterrupt
                interrupted.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield interrupted
        tasks.cancel_scope.cancel()
