"""A task beside a block, whose failures keep their type; and a step that is not given up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


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


async def to_its_end(step: Awaitable[T]) -> T:
    """Await what must not be given up in the middle; a cancellation is heard after it.

    It is a task of its own, for a shield holds off the cancellations of anyio and no others: an
    app's `asyncio.wait_for`, `asyncio.timeout` and `Task.cancel` would go through it. So are
    processes started: asyncio would leave one that nobody waits for.
    """
    results: list[T] = []

    async def take() -> None:
        with anyio.CancelScope(shield=True):
            results.append(await step)

    try:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
    except BaseExceptionGroup as group:
        (error,) = group.exceptions
        raise error from error.__cause__
    return results[0]
