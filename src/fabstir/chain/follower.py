"""Following events: getLogs is the truth, the socket only a wake-up.

A subscription loses what happens while it is down, and anvil 1.7.1 never says that a log was
removed by a reorg (measured). So every batch is fetched by height, the hashes of the last blocks
are remembered, also across restarts, and a chain that does not hold them any more had a reorg.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import anyio
from sqlalchemy import Connection
from websockets.exceptions import WebSocketException

from fabstir.chain._endpoint import LIMIT_EXCEEDED
from fabstir.chain.identity import bind_chain_identity
from fabstir.chain.records import Block, Log, LogFilter
from fabstir.chain.rpc import Chain
from fabstir.db import Database
from fabstir.db.cursors import Cursor, SeenBlock, load_cursor, save_cursor
from fabstir.primitives.errors import ChainError, RpcRefused
from fabstir.telemetry.background import running
from fabstir.telemetry.waiting import Wakeup
from fabstir.web.sockets import connect_websocket

logger = logging.getLogger(__name__)

MAX_RANGE_BLOCKS = 2_000
"""Public endpoints refuse more; halved when they refuse for too many results."""

NUM_REMEMBERED_BLOCKS = 64
"""How deep a reorg may be to be followed exactly; after a deeper one everything is read again.
Ethereum's deepest since proof of stake had 7 blocks, Base had none."""

_MANY_REFUSALS = 20
"""In a row: the endpoint cannot serve logs at all, and somebody must choose another one."""

_SOCKET_TIMEOUT_SECONDS = 10.0
_SOCKET_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of the cursor, which the consumer commits when it has dealt with it."""

    _follower: LogFollower
    _cursor: Cursor

    def save(self, connection: Connection) -> None:
        """Move the cursor in a transaction of the consumer's own: then each step counts once."""
        self._follower.save(connection, self._cursor)

    async def commit(self) -> None:
        """Move the cursor; without it the same events come again after a restart."""
        await self._follower.db.write(self.save, durable=False)


@dataclass(frozen=True, slots=True)
class LogBatch(_Step):
    """The events of a range of blocks, in the order of the chain. It may hold none."""

    logs: tuple[Log, ...]
    from_block: int
    to_block: int


@dataclass(frozen=True, slots=True)
class Rollback(_Step):
    """Blocks above `to_block` left the chain: what came from them did not happen."""

    to_block: int

    @property
    def logs(self) -> tuple[Log, ...]:
        """None: what follows is read again."""
        return ()


class LogFollower:
    """An endless asynchronous iterator of batches and rollbacks. Made by `follow_logs`.

    Nothing is fetched ahead: the next step begins when the consumer asks for it.
    """

    def __init__(
        self,
        chain: Chain,
        db: Database,
        name: str,
        log_filter: LogFilter,
        *,
        start_block: int,
        cursor: Cursor | None,
        poll_interval: float,
        max_range: int,
    ) -> None:
        self.db = db
        self._chain = chain
        self._name = name
        self._filter = log_filter
        self._start = Cursor(start_block - 1, ())
        self._cursor = cursor or self._start
        self._poll_interval = poll_interval
        self._max_range = self._range = max_range
        self._num_failures = 0
        self._wakeup = Wakeup()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogBatch | Rollback:
        """The next step; waits for one, as long as it takes, also for a node that is down."""
        while True:
            try:
                step = await self._step()
                self._num_failures = 0
                if step:
                    return step
            except ChainError as exc:
                self._num_failures += 1
                level = logging.ERROR if self._num_failures == _MANY_REFUSALS else logging.WARNING
                logger.log(level, "events wait for the chain", extra={"reason": str(exc)})
            await self._wakeup.sleep(self._poll_interval)

    def wake(self) -> None:
        """Look now instead of at the next poll."""
        self._wakeup.wake()

    def save(self, connection: Connection, cursor: Cursor) -> None:
        """Store a cursor under this follower's name."""
        save_cursor(connection, self._chain.chain_id, self._name, cursor)

    async def _step(self) -> LogBatch | Rollback | None:
        """One step, or None: no new block, or the chain changed while it was read."""
        head = await self._chain.latest_block()
        blocks = self._cursor.blocks
        if head.number <= self._cursor.block_number:
            return await self._look_for_reorg(head)
        from_block = self._cursor.block_number + 1
        end = await self._range_end(from_block, head)
        if end is None:
            return None
        logs = await self._fetch(from_block, end.number)
        if logs is None:
            return None
        # In this order: if the old end and then the new one are still in the chain after the logs
        # were read, the old one is an ancestor of the new, and the logs are of this very chain.
        if blocks and (known := await self._chain.block(blocks[-1].number)) is not None:
            if known.hash != blocks[-1].hash:
                return await self._roll_back()
        elif blocks:
            return None
        new = SeenBlock(end.number, end.hash)
        if not await self._is_in_chain(new):
            return None
        kept = (b for b in blocks if b.number > end.number - NUM_REMEMBERED_BLOCKS)
        self._cursor = Cursor(end.number, (*kept, new))
        return LogBatch(self, self._cursor, tuple(logs), from_block, end.number)

    async def _range_end(self, from_block: int, head: Block) -> Block | None:
        """The last block of the next range.

        Ranges stop short of the newest blocks first, so that a small reorg right after catching up
        does not throw a whole range away.
        """
        settled = head.number - NUM_REMEMBERED_BLOCKS
        last = min(head.number, from_block + self._range - 1)
        if from_block <= settled < last:
            last = settled
        return head if last == head.number else await self._chain.block(last)

    async def _fetch(self, from_block: int, to_block: int) -> list[Log] | None:
        """The logs; None when the endpoint refused and a smaller range is to be tried."""
        try:
            logs = await self._chain.logs(self._filter, from_block, to_block)
        except RpcRefused as exc:
            if to_block == from_block:
                raise
            self._range = (to_block - from_block + 1) // 2
            logger.info("logs refused", extra={"reason": exc.reason, "range": self._range})
            if exc.code != LIMIT_EXCEEDED:  # which may count requests: the next one waits its time
                self.wake()
            return None
        self._range = min(2 * self._range, self._max_range)
        return logs

    async def _look_for_reorg(self, head: Block) -> Rollback | None:
        """No new block: is the head the one that is remembered at its height?

        A head below the cursor alone is no reorg: behind one address there may be several nodes,
        one of them late.
        """
        below = [block for block in self._cursor.blocks if block.number <= head.number]
        if not below or below[-1] == SeenBlock(head.number, head.hash):
            return None
        if below[-1].number < head.number and await self._is_in_chain(below[-1]):
            return None
        return await self._roll_back()

    async def _roll_back(self) -> Rollback | None:
        """Go back to the newest remembered block that is still in the chain."""
        blocks = list(self._cursor.blocks)
        while blocks and not await self._is_in_chain(blocks[-1]):
            blocks.pop()
        if len(blocks) == len(self._cursor.blocks):
            return None  # it changed back in the meantime
        self._cursor = Cursor(blocks[-1].number, tuple(blocks)) if blocks else self._start
        logger.warning(
            "reorg: reading events again",
            extra={"follower": self._name, "to_block": self._cursor.block_number},
        )
        return Rollback(self, replace(self._cursor), self._cursor.block_number)

    async def _is_in_chain(self, seen: SeenBlock) -> bool:
        block = await self._chain.block(seen.number)
        return block is not None and block.hash == seen.hash


@asynccontextmanager
async def follow_logs(
    chain: Chain,
    db: Database,
    *,
    name: str,
    log_filter: LogFilter,
    start_block: int,
    ws_url: str | None = None,
    poll_interval: float = 2.0,
    max_range: int = MAX_RANGE_BLOCKS,
) -> AsyncGenerator[LogFollower]:
    """Follow events from where the follower of this name stopped, for the length of the block.

    Args:
        name: of the cursor.
        start_block: where to begin when there is no cursor yet.
        ws_url: a socket that announces new blocks; without it, or while it is down, they are
            noticed within `poll_interval`.
        poll_interval: seconds; 2 is Base's block time.
        max_range: blocks asked for at once; some endpoints allow few.

    Raises:
        ConfigError: this name is being followed already, or the journal belongs to another chain
            of the same id (a new devnet).
    """
    await bind_chain_identity(chain, db)
    cursor = await db.read(lambda connection: load_cursor(connection, chain.chain_id, name))
    follower = LogFollower(
        chain,
        db,
        name,
        log_filter,
        start_block=start_block,
        cursor=cursor,
        poll_interval=poll_interval,
        max_range=max_range,
    )
    with db.hold(f"the events {name!r} on chain {chain.chain_id}"):
        if ws_url is None:
            yield follower
            return
        async with running(partial(_listen, ws_url, follower)):
            yield follower


async def _listen(ws_url: str, follower: LogFollower) -> None:
    """Wake the follower at each new head, for ever; after a lost connection subscribe again."""
    subscribe = {"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]}
    while True:
        try:
            async with await connect_websocket(
                ws_url, reach=None, open_timeout=_SOCKET_TIMEOUT_SECONDS
            ) as socket:
                await socket.send(json.dumps(subscribe))
                async for _ in socket:
                    follower.wake()
        except (OSError, WebSocketException) as exc:  # TimeoutError is an OSError
            logger.info("no wake-ups from the chain's socket", extra={"reason": str(exc)})
        await anyio.sleep(_SOCKET_PAUSE_SECONDS)
