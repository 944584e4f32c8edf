"""Waiting for what the chain will say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from tests.anvil import mine

from fabstir.chain.rpc import Chain
from fabstir.sdk import AsyncClient, AsyncSession, SessionSettlement

SETTLE_TIMEOUT = 60.0


@asynccontextmanager
async def blocks_come(chain: Chain) -> AsyncGenerator[None]:
    """As on every real chain: a devnet whose clock was moved shows its time only in new blocks."""

    async def make_blocks() -> None:
        while True:
            await mine(chain)
            await anyio.sleep(0.5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make_blocks)
        yield
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(SETTLE_TIMEOUT):
        while not await condition():
            await anyio.sleep(0.1)


async def settled(client: AsyncClient, session: AsyncSession) -> SessionSettlement:
    """Wait until the journal says so, looking at the chain as the watcher does."""
    found: list[SessionSettlement] = []

    async def look() -> bool:
        found[:] = [s for s in await client.recover() if s.session == session.id]
        return bool(found) and found[0].is_settled

    await until(look)
    return found[0]
