"""Following events on a real node: catching up, reorgs, restarts, lost sockets."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from tests.anvil import increase_time, mine, reorg, revert_to, snapshot
from tests.integration.chain.faulty_rpc import open_faulty_rpc

from fabstir.chain.abi import load_abi
from fabstir.chain.anvil import DEV_CHAIN_ID
from fabstir.chain.follower import LogBatch, LogFollower, Rollback, follow_logs
from fabstir.chain.records import Block, ContractCall, LogFilter
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import TransactionQueue
from fabstir.db import Database
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import Address

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.fixture
async def token(chain: Chain, queue: TransactionQueue) -> Address:
    """A token whose mints are the events of these tests."""
    data = load_abi("TestFab").creation_code()
    mined = await queue.send("token", ContractCall(to=None, data=data, description="deploying"))
    receipt = await chain.receipt(mined.tx_hash)
    assert receipt is not None
    assert receipt.contract_address is not None
    return receipt.contract_address


async def mint(queue: TransactionQueue, token: Address, amount: int) -> None:
    data = load_abi("TestFab").functions["mint"].encode(queue.signer.address, amount)
    call = ContractCall(to=token, data=data, description="minting")
    await queue.send(f"mint:{amount}", call)


def follow(
    chain: Chain, db: Database, token: Address, **options: Any
) -> AbstractAsyncContextManager[LogFollower]:
    settings: dict[str, Any] = {"name": "mints", "start_block": 0, "poll_interval": 0.02}
    log_filter = LogFilter(addresses=(token,))
    return follow_logs(chain, db, log_filter=log_filter, **(settings | options))


def amounts_of(batch: LogBatch) -> list[int]:
    return [int.from_bytes(log.data, "big") for log in batch.logs]


class Consumer:
    """Holds the amounts that it was told of, and forgets them when it is told so."""

    def __init__(self, follower: LogFollower) -> None:
        self._follower = follower
        self._blocks: list[tuple[int, int]] = []

    @property
    def held(self) -> list[int]:
        return [amount for _, amount in self._blocks]

    async def wait_for(self, *amounts: int) -> list[int]:
        """Commit step after step until these amounts are held."""
        with anyio.fail_after(10):
            while not set(amounts) <= set(self.held):
                await self._take()
        return self.held

    async def _take(self) -> None:
        step = await anext(self._follower)
        if isinstance(step, Rollback):
            self._blocks = [entry for entry in self._blocks if entry[0] <= step.to_block]
        else:
            self._blocks += [
                (log.block_number, int.from_bytes(log.data, "big")) for log in step.logs
            ]
        await step.commit()


async def test_events_come_in_order_from_the_start(
    chain: Chain, queue: TransactionQueue, token: Address, db: Database
) -> None:
    for amount in (1, 2):
        await mint(queue, token, amount)

    async with follow(chain, db, token) as follower:
        consumer = Consumer(follower)
        assert await consumer.wait_for(2) == [1, 2]
        await mint(queue, token, 3)
        assert await consumer.wait_for(3) == [1, 2, 3]


async def test_a_restart_goes_on_after_the_last_commit(
    chain: Chain, queue: TransactionQueue, token: Address, db: Database
) -> None:
    await mint(queue, token, 1)
    async with follow(chain, db, token) as follower:
        await Consumer(follower).wait_for(1)
        await mint(queue, token, 2)
        not_committed = await anext(follower)
        assert isinstance(not_committed, LogBatch)
        assert amounts_of(not_committed) == [2]

    async with follow(chain, db, token) as follower:
        assert await Consumer(follower).wait_for(2) == [2]


async def test_a_consumer_commits_with_its_own_rows(
    chain: Chain, queue: TransactionQueue, token: Address, db: Database
) -> None:
    await mint(queue, token, 1)
    async with follow(chain, db, token) as follower:
        step = await anext(follower)

        await db.write(step.save, durable=True)

    async with follow(chain, db, token) as follower:
        await mint(queue, token, 2)
        assert await Consumer(follower).wait_for(2) == [2]


async def test_a_reorg_rolls_back_and_reads_again(
    chain: Chain, queue: TransactionQueue, token: Address, db: Database
) -> None:
    async with follow(chain, db, token) as follower:
        consumer = Consumer(follower)
        for amount in (1, 2):
            await mint(queue, token, amount)
            await consumer.wait_for(amount)

        await reorg(chain, 1)
        await mint(queue, token, 3)

        # The queue sends the second mint again: it is there once, in whichever block.
        assert sorted(await consumer.wait_for(2, 3)) == [1, 2, 3]


async def test_a_chain_that_got_shorter_is_a_reorg(
    chain: Chain, token: Address, db: Database
) -> None:
    async with follow(chain, db, token) as follower:
        await anext(follower)
        mark = await snapshot(chain)
        height = await chain.block_number()
        await mine(chain, 3)
        grown = await anext(follower)
        assert isinstance(grown, LogBatch)
        assert grown.to_block == height + 3

        await revert_to(chain, mark)
        await increase_time(chain, 100)
        await mine(chain, 2)
        with anyio.fail_after(5):
            step = await anext(follower)

    assert isinstance(step, Rollback)
    assert step.to_block == height


async def test_a_reorg_while_nobody_followed_is_noticed(
    chain: Chain, token: Address, db: Database
) -> None:
    await mine(chain)
    async with follow(chain, db, token) as follower:
        for _ in range(3):
            await (await anext(follower)).commit()
            await mine(chain)
    await reorg(chain, 3)
    await mine(chain)

    async with follow(chain, db, token) as follower:
        with anyio.fail_after(5):
            step = await anext(follower)
            assert isinstance(step, Rollback)
            await step.commit()
            again = await anext(follower)

    assert isinstance(again, LogBatch)
    assert again.from_block == step.to_block + 1


async def test_a_reorg_deeper_than_remembered_starts_over(
    chain: Chain, token: Address, db: Database
) -> None:
    await mine(chain, 3)
    async with follow(chain, db, token, start_block=2) as follower:
        await (await anext(follower)).commit()

        await reorg(chain, 4)
        await mine(chain)
        with anyio.fail_after(5):
            step = await anext(follower)
            again = await anext(follower)

    assert isinstance(step, Rollback)
    assert isinstance(again, LogBatch)
    assert (step.to_block, again.from_block) == (1, 2)


async def test_ranges_stay_below_the_limit_and_near_blocks_come_apart(
    chain: Chain, queue: TransactionQueue, token: Address, db: Database
) -> None:
    await mine(chain, 250)
    await mint(queue, token, 7)
    head = await chain.block_number()
    ranges: list[tuple[int, int]] = []

    async with follow(chain, db, token, max_range=100) as follower:
        while not ranges or ranges[-1][1] < head:
            batch = await anext(follower)
            assert isinstance(batch, LogBatch)
            ranges.append((batch.from_block, batch.to_block))

    assert ranges == [(0, 99), (100, head - 64), (head - 63, head)]


async def test_a_refused_range_is_halved(
    chain: Chain, queue: TransactionQueue, token: Address, db: Database
) -> None:
    await mine(chain, 300)
    await mint(queue, token, 7)

    def refuse(method: str, params: list[Any]) -> str | None:
        if method != "eth_getLogs":
            return None
        size = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
        return "query returned more than 10000 results" if size > 40 else None

    async with (
        open_faulty_rpc(chain.rpc_url, refuse) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as limited,
        follow(limited, db, token) as follower,
    ):
        assert await Consumer(follower).wait_for(7) == [7]


async def test_an_endpoint_without_logs_is_reported_and_asked_again(
    chain: Chain, token: Address, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(method: str, _params: list[Any]) -> str | None:
        is_reported = any(record.levelno == logging.ERROR for record in caplog.records)
        return "disabled" if method == "eth_getLogs" and not is_reported else None

    async with (
        open_faulty_rpc(chain.rpc_url, refuse) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as limited,
        follow(limited, db, token) as follower,
    ):
        with anyio.fail_after(5):
            step = await anext(follower)

    assert isinstance(step, LogBatch)


async def test_a_node_that_is_late_is_no_reorg(
    chain: Chain, queue: TransactionQueue, token: Address, db: Database
) -> None:
    await mine(chain, 3)
    late = LateChain(chain)
    async with follow(late, db, token) as follower:
        await anext(follower)
        late.num_answers = 5
        await mint(queue, token, 7)
        with anyio.fail_after(5):
            step = await anext(follower)

    assert late.num_answers == 0
    assert isinstance(step, LogBatch)
    assert amounts_of(step) == [7]


class LateChain(Chain):
    """Several nodes behind one address: some answers come from one that is two blocks behind."""

    num_answers = 0

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.session, chain.rpc_url, chain.chain_id)

    async def block(self, tag: int | str = "latest") -> Block | None:
        if self.num_answers == 0:
            return await super().block(tag)
        self.num_answers -= 1
        behind = await self.block_number() - 3
        wanted = behind if isinstance(tag, str) else tag
        return None if wanted > behind else await super().block(wanted)


async def test_a_name_is_followed_once(chain: Chain, token: Address, db: Database) -> None:
    async with follow(chain, db, token):
        with pytest.raises(ConfigError, match="in use already"):
            async with follow(chain, db, token):
                pass


class Relay:
    """A TCP relay to the node's socket, whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[SocketStream] = set()
        self.url = ""

    async def serve(self, client: SocketStream) -> None:
        node = await anyio.connect_tcp("127.0.0.1", self._port)
        self._open |= {client, node}
        async with client, node, anyio.create_task_group() as tasks:
            tasks.start_soon(self._copy, client, node)
            await self._copy(node, client)
            tasks.cancel_scope.cancel()

    async def _copy(self, source: SocketStream, target: SocketStream) -> None:
        try:
            async for data in source:
                await target.send(data)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    async def cut(self) -> None:
        with anyio.fail_after(5):
            while not self._open:
                await anyio.lowlevel.checkpoint()
        for stream in self._open:
            await stream.aclose()
        self._open.clear()


@asynccontextmanager
async def open_relay(rpc_url: str) -> AsyncGenerator[Relay]:
    relay = Relay(int(rpc_url.rsplit(":", 1)[1]))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        relay.url = f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, relay.serve)
            yield relay
            tasks.cancel_scope.cancel()


async def test_the_socket_wakes_a_follower_and_may_be_cut(
    chain: Chain, queue: TransactionQueue, token: Address, db: Database
) -> None:
    async with (
        open_relay(chain.rpc_url) as relay,
        follow(chain, db, token, ws_url=relay.url, poll_interval=60.0) as follower,
    ):
        await mint(queue, token, 1)
        assert await Consumer(follower).wait_for(1) == [1]

        await relay.cut()
        await mint(queue, token, 2)  # its announcement is lost; the next connection wakes us

        assert await Consumer(follower).wait_for(2) == [2]
