"""Sending transactions through a real node: concurrency, restarts, refusals, replacements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from tests.anvil import mine, reorg, set_automine
from tests.contract_calls import Erc20Calls
from tests.integration.chain.conftest import IMPATIENT
from tests.integration.chain.faulty_rpc import open_faulty_rpc

from fabstir.chain.anvil import DEV_CHAIN_ID
from fabstir.chain.cheats import set_balance
from fabstir.chain.devnet import Devnet, public_test_key
from fabstir.chain.keystore import Signer
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.db import Database
from fabstir.db.chains import bind_chain
from fabstir.db.outbox import (
    OutboxRow,
    TransactionStatus,
    find_transaction,
    unfinished_transactions,
)
from fabstir.primitives.errors import (
    ChainError,
    ConfigError,
    InsufficientFunds,
    RpcUnavailable,
    TransactionReverted,
    TransactionStuck,
)
from fabstir.primitives.ids import Address, Hash32
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

RECIPIENT = Address("0x" + "00" * 18 + "beef")


def pay(amount: int, to: Address = RECIPIENT) -> ContractCall:
    return ContractCall(to=to, data=b"", value=Wei(amount), description=f"paying {amount}")


async def rows(db: Database, signer: Signer) -> list[OutboxRow]:
    return await db.read(lambda c: unfinished_transactions(c, DEV_CHAIN_ID, signer.address))


async def wait_for_row(db: Database, signer: Signer, key: str) -> OutboxRow:
    """The row, as soon as it is journalled."""
    with anyio.fail_after(5):
        while True:
            row = await db.read(lambda c: find_transaction(c, DEV_CHAIN_ID, signer.address, key))
            if row is not None:
                return row
            await anyio.lowlevel.checkpoint()


async def wait_for_versions(db: Database, signer: Signer, key: str, num_versions: int) -> OutboxRow:
    """The row, as soon as it has so many signed versions."""
    with anyio.fail_after(5):
        while True:
            row = await wait_for_row(db, signer, key)
            if len(row.versions) >= num_versions:
                return row


async def wait_until_known(chain: Chain, signer: Signer, num_transactions: int) -> None:
    """Until the node has so many of the account's transactions, mined or not."""
    with anyio.fail_after(5):
        while await chain.nonce(signer.address, tag="pending") < num_transactions:
            pass


async def test_a_transaction_is_mined_and_its_cost_recorded(
    chain: Chain, signer: Signer, queue: TransactionQueue, db: Database
) -> None:
    before = await chain.balance(signer.address)

    mined = await queue.send("k", pay(7))

    assert await chain.balance(RECIPIENT) == 7
    assert await chain.balance(signer.address) == before - 7 - mined.fee
    assert mined.gas_used == 21_000
    [row] = await rows(db, signer)
    assert (row.status, row.outcome and row.outcome.tx_hash) == ("mined", mined.tx_hash)


async def test_thirty_concurrent_sends_are_all_mined(
    chain: Chain, signer: Signer, queue: TransactionQueue
) -> None:
    hashes: set[str] = set()

    async def send(number: int) -> None:
        hashes.add((await queue.send(f"k{number}", pay(1))).tx_hash)

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(send, number)

    assert len(hashes) == 30
    assert await chain.balance(RECIPIENT) == 30
    assert await chain.nonce(signer.address) == 30


@pytest.mark.usefixtures("queue")
async def test_an_account_has_one_queue(chain: Chain, signer: Signer, db: Database) -> None:
    with pytest.raises(ConfigError, match="are in use already"):
        async with open_transaction_queue(chain, signer, db, IMPATIENT):
            pass


async def test_one_key_is_one_transaction(
    chain: Chain, signer: Signer, queue: TransactionQueue
) -> None:
    results: list[Any] = []

    async def send() -> None:
        results.append(await queue.send("k", pay(5)))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(send)
    results.append(await queue.send("k", pay(6)))

    assert len(set(results)) == 1
    assert await chain.balance(RECIPIENT) == 5


async def test_a_key_keeps_its_outcome_across_a_restart(
    chain: Chain, signer: Signer, db: Database
) -> None:
    async with open_transaction_queue(chain, signer, db, IMPATIENT) as first:
        mined = await first.send("k", pay(5))

    async with open_transaction_queue(chain, signer, db, IMPATIENT) as second:
        again = await second.send("k", pay(5))

    assert again == mined
    assert await chain.balance(RECIPIENT) == 5


async def test_a_cancelled_sender_does_not_cancel_its_transaction(
    chain: Chain, signer: Signer, queue: TransactionQueue, db: Database
) -> None:
    await set_automine(chain, enabled=False)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.send, "k", pay(5))
        await wait_for_row(db, signer, "k")
        tasks.cancel_scope.cancel()
    await wait_until_known(chain, signer, 1)
    await set_automine(chain, enabled=True)
    await mine(chain)

    await queue.send("k", pay(5))
    assert await chain.balance(RECIPIENT) == 5


async def test_a_revert_is_found_before_anything_is_journalled(
    devnet: Devnet, db: Database
) -> None:
    fab, host = Erc20Calls(devnet.chain, devnet.contracts.fab.address), devnet.accounts[0]
    async with open_transaction_queue(devnet.chain, host, db, IMPATIENT) as queue:
        with pytest.raises(TransactionReverted, match="ERC20InsufficientBalance") as caught:
            await queue.send("k", fab.transfer(RECIPIENT, Wei(10**30)))

        mined = await queue.send("k", fab.transfer(RECIPIENT, Wei(1)))

    assert caught.value.tx_hash is None
    assert mined.nonce == 0


async def test_a_transaction_that_reverts_in_the_chain_is_reported_with_its_reason(
    devnet: Devnet, db: Database
) -> None:
    # Both pass their estimate, but the first leaves nothing for the second.
    chain, fab, sender = (
        devnet.chain,
        Erc20Calls(devnet.chain, devnet.contracts.fab.address),
        devnet.accounts[1],
    )
    everything = await fab.balance(sender.address)
    failures: list[TransactionReverted] = []

    async def send(key: str) -> None:
        try:
            await queue.send(key, fab.transfer(RECIPIENT, everything))
        except TransactionReverted as exc:
            failures.append(exc)

    async with open_transaction_queue(chain, sender, db, IMPATIENT) as queue:
        await set_automine(chain, enabled=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, "a")
            tasks.start_soon(send, "b")
            await wait_until_known(chain, sender, 2)
            await set_automine(chain, enabled=True)
            await mine(chain)
        await send("a")
        await send("b")

    assert failures[0].tx_hash is not None
    assert [failure.tx_hash for failure in failures] == 2 * [failures[0].tx_hash]
    assert await chain.nonce(sender.address) == 2


async def test_an_account_that_cannot_pay_is_told_how_much_it_lacks(
    chain: Chain, db: Database
) -> None:
    poor = public_test_key("poor")
    await set_balance(chain, poor.address, Wei(10**9))
    async with open_transaction_queue(chain, poor, db, IMPATIENT) as queue:
        with pytest.raises(
            InsufficientFunds, match=f"{poor.address} has 0.000000001 ETH"
        ) as caught:
            await queue.send("k", pay(5))

        await set_balance(chain, poor.address, Wei(caught.value.needed))
        await queue.send("k", pay(5))

    assert await chain.balance(RECIPIENT) == 5


async def test_a_refused_estimate_is_a_lack_of_funds_too(
    chain: Chain, signer: Signer, db: Database
) -> None:
    def refuse(method: str, _params: list[Any]) -> str | None:
        return "insufficient funds for transfer" if method == "eth_estimateGas" else None

    async with (
        open_faulty_rpc(chain.rpc_url, refuse) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as geth_like,
        open_transaction_queue(geth_like, signer, db, IMPATIENT) as queue,
    ):
        with pytest.raises(InsufficientFunds, match=signer.address):
            await queue.send("k", pay(5))

    assert await rows(db, signer) == []


async def test_money_that_is_committed_is_not_spent_twice(
    chain: Chain, signer: Signer, queue: TransactionQueue, db: Database
) -> None:
    most = 60 * 10**18
    await set_automine(chain, enabled=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.send, "a", pay(most))
        await wait_for_row(db, signer, "a")

        with pytest.raises(InsufficientFunds):
            await queue.send("b", pay(most))

        await set_automine(chain, enabled=True)
        await mine(chain)


async def test_a_transaction_that_is_not_mined_is_replaced(
    chain: Chain, signer: Signer, queue: TransactionQueue, db: Database
) -> None:
    await set_automine(chain, enabled=False)
    results: list[str] = []

    async def send() -> None:
        results.append((await queue.send("k", pay(5))).tx_hash)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await wait_for_versions(db, signer, "k", 3)
        await set_automine(chain, enabled=True)
        await mine(chain)

    row = await wait_for_row(db, signer, "k")
    assert results[0] in {version.tx_hash for version in row.versions[1:]}
    for older, newer in zip(row.versions, row.versions[1:], strict=False):
        assert newer.max_fee_per_gas * 1000 >= older.max_fee_per_gas * 1125
        assert newer.max_priority_fee_per_gas * 1000 >= older.max_priority_fee_per_gas * 1125
    assert await chain.balance(RECIPIENT) == 5


async def test_an_older_version_that_is_mined_counts(
    chain: Chain, signer: Signer, db: Database
) -> None:
    await set_automine(chain, enabled=False)
    async with (
        open_faulty_rpc(chain.rpc_url, RefuseReplacements()) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as behind,
        open_transaction_queue(behind, signer, db, IMPATIENT) as queue,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(queue.send, "k", pay(5))
        row = await wait_for_versions(db, signer, "k", 2)
        await set_automine(chain, enabled=True)
        await mine(chain)

        mined = await queue.send("k", pay(5))

        assert mined.tx_hash == row.versions[0].tx_hash


class RefuseReplacements:
    """Takes the first transaction only."""

    def __init__(self) -> None:
        self.first: str | None = None

    def __call__(self, method: str, params: list[Any]) -> str | None:
        if method != "eth_sendRawTransaction":
            return None
        self.first = self.first or params[0]
        return None if params[0] == self.first else "replacement transaction underpriced"


async def test_a_transaction_that_is_never_mined_is_reported_and_kept(
    chain: Chain, signer: Signer, db: Database
) -> None:
    await set_automine(chain, enabled=False)
    options = replace(IMPATIENT, timeout=0.5)
    async with open_transaction_queue(chain, signer, db, options) as queue:
        with pytest.raises(TransactionStuck, match=r"nonce 0\) was not mined in 0.5 s"):
            await queue.send("k", pay(5))

        await set_automine(chain, enabled=True)
        await mine(chain)
        await queue.send("k", pay(5))

    assert await chain.balance(RECIPIENT) == 5


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("insufficient funds for gas * price + value", InsufficientFunds),
        ("tx type not supported", ChainError),
    ],
)
async def test_a_refused_transaction_leaves_no_gap(
    chain: Chain, signer: Signer, db: Database, text: str, error: type[ChainError]
) -> None:
    def refuse(method: str, params: list[Any]) -> str | None:
        is_payment = method == "eth_sendRawTransaction" and RECIPIENT[2:] in params[0]
        return text if is_payment and is_refusing else None

    is_refusing = True
    async with (
        open_faulty_rpc(chain.rpc_url, refuse) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as behind,
        open_transaction_queue(behind, signer, db, IMPATIENT) as queue,
    ):
        with pytest.raises(error):
            await queue.send("k", pay(5))
        later = await queue.send("later", pay(1, Address("0x" + "22" * 20)))
        is_refusing = False
        again = await queue.send("k", pay(5))

    assert (later.nonce, again.nonce) == (1, 2)
    assert await chain.balance(RECIPIENT) == 5
    cancelled = (await rows(db, signer))[0]
    assert (cancelled.status, cancelled.refusal) == (TransactionStatus.CANCELLED, text)


async def test_a_fee_below_the_base_fee_is_raised_at_once(
    chain: Chain, signer: Signer, db: Database
) -> None:
    async def raise_base_fee() -> None:
        await chain.request("anvil_setNextBlockBaseFeePerGas", [hex(20 * 10**9)])

    behind = Interrupted(chain, raise_base_fee)
    async with open_transaction_queue(behind, signer, db, IMPATIENT) as queue:
        mined = await queue.send("k", pay(5))

    assert mined.effective_gas_price >= 20 * 10**9
    assert len((await rows(db, signer))[0].versions) >= 2


class Interrupted(Chain):
    """A chain on which something else happens right before the first broadcast."""

    def __init__(self, chain: Chain, interrupt: Callable[[], Awaitable[None]]) -> None:
        super().__init__(chain.session, chain.rpc_url, chain.chain_id)
        self._interrupt: Callable[[], Awaitable[None]] | None = interrupt

    async def send_raw(self, raw: bytes) -> None:
        if interrupt := self._interrupt:
            self._interrupt = None
            await interrupt()
        await super().send_raw(raw)


async def test_a_nonce_taken_by_another_program_is_replaced(
    chain: Chain, signer: Signer, db: Database
) -> None:
    async def send_elsewhere() -> None:
        fees = await chain.fees()
        foreign = signer.sign_transaction(
            chain_id=DEV_CHAIN_ID,
            nonce=0,
            to=signer.address,
            value=Wei(0),
            data=b"",
            gas_limit=21_000,
            max_fee_per_gas=fees.max_fee_per_gas,
            max_priority_fee_per_gas=fees.max_priority_fee_per_gas,
        )
        await chain.send_raw(foreign.raw)
        await wait_until_mined(chain, signer, 1)

    behind = Interrupted(chain, send_elsewhere)
    async with open_transaction_queue(behind, signer, db, IMPATIENT) as queue:
        mined = await queue.send("k", pay(5))

    assert mined.nonce == 1
    assert await chain.balance(RECIPIENT) == 5


async def wait_until_mined(chain: Chain, signer: Signer, num_transactions: int) -> None:
    with anyio.fail_after(5):
        while await chain.nonce(signer.address) < num_transactions:
            pass


async def test_a_reorg_sends_a_transaction_again(
    chain: Chain, signer: Signer, queue: TransactionQueue, db: Database
) -> None:
    mined = await queue.send("k", pay(5))

    await reorg(chain, 1)
    assert await chain.balance(RECIPIENT) == 0

    with anyio.fail_after(5):
        while await chain.balance(RECIPIENT) != 5:
            pass
        while (row := (await rows(db, signer))[0]).status is not TransactionStatus.MINED:
            await anyio.lowlevel.checkpoint()
    assert row.outcome is not None
    assert row.outcome.tx_hash == mined.tx_hash
    assert (await chain.receipt(mined.tx_hash)) is not None


async def test_rows_become_final(
    chain: Chain, signer: Signer, queue: TransactionQueue, db: Database
) -> None:
    await queue.send("k", pay(5))

    await mine(chain, 6)

    with anyio.fail_after(5):
        while await rows(db, signer):
            await anyio.lowlevel.checkpoint()


async def test_a_new_devnet_with_an_old_journal_is_refused(
    chain: Chain, signer: Signer, db: Database
) -> None:
    earlier = Hash32("0x" + "01" * 32)
    await db.write(lambda c: bind_chain(c, DEV_CHAIN_ID, earlier), durable=True)

    with pytest.raises(ConfigError, match="another chain of id 31337"):
        async with open_transaction_queue(chain, signer, db, IMPATIENT):
            pass


async def test_an_unreachable_node_is_waited_for(
    chain: Chain, signer: Signer, db: Database
) -> None:
    class Unreachable(Chain):
        """Loses its network for the first three looks of the queue."""

        num_failures = 0

        async def latest_block(self) -> Any:
            if self.num_failures < 3 and await rows(db, signer):
                self.num_failures += 1
                raise RpcUnavailable("down")
            return await super().latest_block()

    behind = Unreachable(chain.session, chain.rpc_url, chain.chain_id)
    async with open_transaction_queue(behind, signer, db, IMPATIENT) as queue:
        await queue.send("k", pay(5))

    assert behind.num_failures == 3
    assert await chain.balance(RECIPIENT) == 5
