"""Sending transactions so that each happens exactly once: journal, then act, then confirm.

The signed bytes are stored, durably, before they are broadcast, and the same bytes are sent again
until they are mined; a replacement with higher fees is stored before it is sent, too. So SIGKILL
at any point neither loses a transaction nor sends one twice.

Nonces come from the journal, in the same database transaction that stores the signed bytes, so
concurrent senders cannot collide. A nonce is never given back: if the node refuses a transaction
for good, a filler (no value, no data, to ourselves) takes over its nonce, and whichever of the two
is mined decides what happened.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from sqlalchemy import Connection

from fabstir.chain._settling import (
    PLAIN_TRANSFER_GAS,
    TransactionSettler,
    cannot_pay,
    is_lack_of_funds,
)
from fabstir.chain.identity import bind_chain_identity, confirm_chain_identity
from fabstir.chain.keystore import Signer
from fabstir.chain.records import ContractCall, Fees
from fabstir.chain.rpc import Chain
from fabstir.db import Database
from fabstir.db.outbox import (
    Intention,
    OutboxRow,
    TransactionStatus,
    find_transaction,
    get_transaction,
    insert_transaction,
    next_nonce,
    unfinished_transactions,
)
from fabstir.primitives.errors import (
    ChainError,
    RpcRefused,
    StorageError,
    TransactionReverted,
    TransactionStuck,
)
from fabstir.primitives.ids import Hash32
from fabstir.primitives.units import Wei
from fabstir.telemetry.background import running, to_its_end
from fabstir.telemetry.waiting import Wakeup

logger = logging.getLogger(__name__)

_FIRST_POLL_SECONDS = 0.01
"""anvil mines within a few milliseconds, but after it has returned the hash."""

_UNSETTLED = (TransactionStatus.PENDING, TransactionStatus.CANCELLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionOptions:
    """How patient a queue is; times are in seconds."""

    poll_interval: float = 1.0
    """Longest pause between two looks for receipts: half a block of Base."""
    stuck_after: float = 30.0
    """A transaction not mined for so long is replaced by one with fees 12.5 % higher."""
    timeout: float = 300.0
    """How long `send` waits before it raises TransactionStuck; the queue goes on trying."""
    final_depth: int = 64
    """Blocks on top of a transaction's after which no reorg is expected to reach it."""
    gas_margin_percent: int = 25
    """Added to each estimate: the state may change before the transaction is mined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinedTransaction:
    """A transaction that is in the chain and did what it was to do."""

    tx_hash: Hash32
    nonce: int
    block_number: int
    gas_used: int
    effective_gas_price: Wei

    @property
    def fee(self) -> Wei:
        """What its gas cost, in wei. A rollup's data fee comes on top."""
        return Wei(self.gas_used * self.effective_gas_price)


class TransactionQueue:
    """The only way in which an account sends transactions. Made by `open_transaction_queue`."""

    def __init__(
        self, chain: Chain, signer: Signer, db: Database, options: TransactionOptions
    ) -> None:
        self.signer = signer
        self._chain = chain
        self._db = db
        self._options = options
        self._settler = TransactionSettler(
            chain,
            signer,
            db,
            stuck_after=options.stuck_after,
            final_depth=options.final_depth,
            on_change=self._notify,
        )
        self._waiters: dict[int, anyio.Event] = {}
        self._wakeup = Wakeup()

    async def send(self, key: str, call: ContractCall) -> MinedTransaction:
        """Do `call` once, whatever happens, and return when it is in the chain.

        Args:
            key: names the intention, for ever: `{contract}:{job}:{action}:{n}`. A second call
                with the same key, also after a restart, waits for and returns the first one's
                outcome, even if `call` differs.

        Raises:
            TransactionReverted: the contract refuses it. Without a `tx_hash`: nothing was sent
                and the key is free. With one: it is in the chain, and the key is used up.
            InsufficientFunds: the account cannot pay for it; the key is free.
            TransactionStuck: not mined in time; it stays in the outbox and is sent again.
            ChainError: the node refuses it for good; the key is free again once the filler that
                takes over its nonce is mined.
        """
        while True:
            row = await self._find(key) or await self._journal(key, call)
            is_ours = row.status is TransactionStatus.PENDING
            row = await self._wait(row)
            if row.status is TransactionStatus.MINED:
                return _mined(row)
            if row.status is TransactionStatus.REVERTED:
                assert row.outcome is not None, "a reverted transaction was mined"
                raise TransactionReverted(
                    row.description, row.refusal or "no reason given", row.outcome.tx_hash
                )
            if is_ours:
                raise self._settler.failure_of(row)
            # An earlier attempt was being cancelled, and now is: this is the next one.

    async def _find(self, key: str) -> OutboxRow | None:
        chain_id, account = self._chain.chain_id, self.signer.address
        return await self._db.read(lambda c: find_transaction(c, chain_id, account, key))

    async def _journal(self, key: str, call: ContractCall) -> OutboxRow:
        await confirm_chain_identity(self._chain, self._db)
        fees = await self._chain.fees()
        gas_limit = await self._gas_limit(call, fees)
        block = await self._chain.block_number()
        # At one and the same block, so that what is mined is not counted as committed as well.
        balance = await self._chain.balance(self.signer.address, tag=block)
        num_mined = await self._chain.nonce(self.signer.address, tag=block)
        known_nonce = await self._chain.nonce(self.signer.address, tag="pending")

        def insert(connection: Connection) -> OutboxRow:
            chain_id, account = self._chain.chain_id, self.signer.address
            if existing := find_transaction(connection, chain_id, account, key):
                return existing
            unfinished = unfinished_transactions(connection, chain_id, account)
            committed = sum(_most_it_costs(row) for row in unfinished if row.nonce >= num_mined)
            needed = committed + call.value + gas_limit * fees.max_fee_per_gas
            if needed > balance:
                raise cannot_pay(account, needed, balance)
            nonce = max(known_nonce, next_nonce(connection, chain_id, account))
            intention = Intention(
                chain_id=chain_id,
                account=account,
                key=key,
                nonce=nonce,
                description=call.description,
                to=call.to,
                value=call.value,
                data=call.data,
                gas_limit=gas_limit,
            )
            version = self._settler.sign(intention, nonce, fees)
            return insert_transaction(connection, intention, version)

        # Shielded: a row that is stored while its sender is cancelled must be broadcast, too.
        row = await to_its_end(self._db.write(insert, durable=True))
        self._wakeup.wake()
        return row

    async def _gas_limit(self, call: ContractCall, fees: Fees) -> int:
        account = self.signer.address
        try:
            estimate = await self._chain.estimate_gas(call, account)
        except RpcRefused as exc:
            if not is_lack_of_funds(exc):
                raise
            balance = await self._chain.balance(account)
            needed = max(call.value + PLAIN_TRANSFER_GAS * fees.max_fee_per_gas, balance + 1)
            raise cannot_pay(account, needed, balance) from exc
        margin = 100 + self._options.gas_margin_percent
        return max(estimate * margin // 100, call.min_gas_limit)

    async def _wait(self, row: OutboxRow) -> OutboxRow:
        """Until the row's status is another one than it was, or final."""
        waits_for = row.status
        with anyio.move_on_after(self._options.timeout):
            while row.status is waits_for and row.status in _UNSETTLED:
                changed = self._waiters.setdefault(row.id, anyio.Event())
                row = await self._get(row.id)
                if row.status is waits_for and row.status in _UNSETTLED:
                    await changed.wait()
                    row = await self._get(row.id)
            return row
        newest = row.versions[-1]
        raise TransactionStuck(
            f"{row.description}: transaction {newest.tx_hash} (nonce {newest.nonce}) was not mined "
            f"in {self._options.timeout:g} s. It is kept and sent again; see whether the chain "
            "makes blocks and whether fees have risen"
        )

    async def _get(self, row_id: int) -> OutboxRow:
        """A row that is journalled: a database that is away is no reason to give up waiting."""
        while True:
            try:
                return await self._db.read(lambda connection: get_transaction(connection, row_id))
            except StorageError as exc:
                logger.warning("a sender waits for the outbox", extra={"reason": str(exc)})
            await anyio.sleep(self._options.poll_interval)

    def _notify(self, row: OutboxRow) -> None:
        if waiter := self._waiters.pop(row.id, None):
            waiter.set()

    async def settle(self) -> None:
        """Broadcast what is pending and look for what was mined, until the queue is closed."""
        pause = _FIRST_POLL_SECONDS
        while True:
            try:
                is_idle = await self._settler.settle_once()
            except (ChainError, StorageError) as exc:
                # The node is down, syncing, or counts our requests; or the disk is full.
                logger.warning("the outbox waits", extra={"reason": str(exc)})
                is_idle, pause = False, self._options.poll_interval
            is_woken = await self._wakeup.sleep(None if is_idle else pause)
            pause = _FIRST_POLL_SECONDS if is_woken else min(2 * pause, self._options.poll_interval)


@asynccontextmanager
async def open_transaction_queue(
    chain: Chain, signer: Signer, db: Database, options: TransactionOptions | None = None
) -> AsyncGenerator[TransactionQueue]:
    """Bring what is unfinished from last time up to date, then send for the length of the block.

    Raises:
        ConfigError: the journal belongs to another chain of the same id (a new devnet), or the
            account has an open queue already.
        RpcUnavailable: the chain does not answer at the start; later it is waited for.
    """
    await bind_chain_identity(chain, db)
    queue = TransactionQueue(chain, signer, db, options or TransactionOptions())
    with db.hold(f"the transactions of {signer.address} on chain {chain.chain_id}"):
        async with running(queue.settle):
            yield queue


def _most_it_costs(row: OutboxRow) -> int:
    return row.value + row.gas_limit * max(v.max_fee_per_gas for v in row.versions)


def _mined(row: OutboxRow) -> MinedTransaction:
    assert row.outcome is not None, "its status says that it was mined"
    return MinedTransaction(
        tx_hash=row.outcome.tx_hash,
        nonce=row.nonce,
        block_number=row.outcome.block_number,
        gas_used=row.outcome.gas_used,
        effective_gas_price=row.outcome.effective_gas_price,
    )
