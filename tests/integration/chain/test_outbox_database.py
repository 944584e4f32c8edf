"""The database server stops at a step of a payment: it happens once, and the outbox waits."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import pytest
from tests.postgresql import PostgresServer, open_server

from fabstir.chain.cheats import set_balance
from fabstir.chain.devnet import public_test_key
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import Chain
from fabstir.chain.transactions import TransactionOptions, open_transaction_queue
from fabstir.db import _postgresql_faults as faults
from fabstir.db import open_database
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.needs("initdb")]

OPTIONS = TransactionOptions(poll_interval=0.1)

Steps = Callable[[str], None]

_names = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with open_server() as opened:
        yield opened


class InterruptedChain(Chain):
    """A connection to a chain on which something happens around the first broadcast."""

    def __init__(self, chain: Chain, steps: Steps) -> None:
        super().__init__(chain.session, chain.rpc_url, chain.chain_id)
        self._steps = steps

    async def request(
        self, method: str, params: Sequence[Any] = (), *, is_idempotent: bool = True
    ) -> Any:
        if method != "eth_sendRawTransaction":
            return await super().request(method, params, is_idempotent=is_idempotent)
        await anyio.to_thread.run_sync(self._steps, "before a broadcast")
        answer = await super().request(method, params, is_idempotent=is_idempotent)
        await anyio.to_thread.run_sync(self._steps, "after a broadcast")
        return answer


class OutboxWaits(logging.Handler):
    """Notices that the outbox has logged that it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "the outbox waits":
            self.seen.set()


@pytest.fixture
def outbox_waits() -> Iterator[threading.Event]:
    handler, logger = OutboxWaits(), logging.getLogger("fabstir.chain.transactions")
    logger.addHandler(handler)
    yield handler.seen
    logger.removeHandler(handler)


@pytest.mark.parametrize("step", ["before a broadcast", "after a broadcast"])
@pytest.mark.parametrize("is_long", [False, True], ids=["for a moment", "for longer"])
async def test_a_payment_happens_once_though_its_database_stops(
    chain: Chain,
    server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    outbox_waits: threading.Event,
    step: str,
    is_long: bool,
) -> None:
    """Journalled, and then the server is gone: what is sent is what the journal has."""
    monkeypatch.setattr(faults, "_PATIENCE_SECONDS", 0.3 if is_long else 30)
    name = next(_names)
    payer, payee = (public_test_key(f"{name} {each}") for each in ("pays", "is paid"))
    await set_balance(chain, payer.address, Wei(10**18))
    call = ContractCall(to=payee.address, data=b"", value=Wei(7), description="paying")
    left = [step]

    def stop(now: str) -> None:
        if left == [now]:
            left.clear()
            server.stop()
            if not is_long:
                server.start()

    async def come_back() -> None:
        await anyio.to_thread.run_sync(outbox_waits.wait)
        await anyio.to_thread.run_sync(server.start)

    async with (
        open_database(server.url()) as db,
        open_transaction_queue(InterruptedChain(chain, stop), payer, db, OPTIONS) as queue,
        anyio.create_task_group() as tasks,
    ):
        if is_long:
            tasks.start_soon(come_back)
        mined = await queue.send("pay", call)
        assert await queue.send("pay", call) == mined

    assert not left
    assert await chain.balance(payee.address) == 7
    assert await chain.nonce(payer.address) == 1
