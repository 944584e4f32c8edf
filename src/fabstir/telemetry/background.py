"""A task beside a block, whose failures keep their type."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio


@asynccontextmanager
async def running(task: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    """Run `task` until the block is left.

    Raises:
        Whatever the block or the task raised, itself rather than in a group, so that callers can
        catch it by its type; a group only when both failed.
    """
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(task)
            yield
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error, *others = group.exceptions
        if others:
            raise
        raise error from error.__cause__
