"""Which of a name's addresses is connected to: the first that answers (RFC 8305).

A name may have an address that no packet reaches, such as one of IPv6 in a network without; waiting
for it alone would use up all the time there is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import anyio
import httpcore

HEAD_START: Final = 0.25
"""Seconds that an address has before the next one is tried beside it (RFC 8305, section 8)."""

ConnectionT = TypeVar("ConnectionT")

_FAILURES: Final = (OSError, httpcore.NetworkError, httpcore.TimeoutException)


async def connect_first(
    addresses: Sequence[str],
    connect: Callable[[str], Awaitable[ConnectionT]],
    close: Callable[[ConnectionT], Awaitable[None]],
) -> ConnectionT:
    """Connect to one of these addresses; the next is tried after HEAD_START or a failure.

    Args:
        addresses: at least one. None but these is connected to.
        close: for a connection that came second.

    Raises:
        OSError, httpcore.NetworkError, httpcore.TimeoutException: none answered; the last failure.
    """
    won: list[ConnectionT] = []
    failures: list[Exception] = []

    async def attempt(address: str, failed: anyio.Event) -> None:
        try:
            opened = await connect(address)
        except _FAILURES as exc:
            failures.append(exc)
            failed.set()
            return
        if won:
            with anyio.CancelScope(shield=True):
                await close(opened)
        else:
            won.append(opened)
            tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                failed = anyio.Event()
                tasks.start_soon(attempt, address, failed)
                with anyio.move_on_after(HEAD_START):
                    await failed.wait()
    except BaseException:
        for opened in won:
            with anyio.CancelScope(shield=True):
                await close(opened)
        raise
    if not won:
        raise failures[-1]
    return won[0]
