"""One pass over an account's unfinished transactions: broadcast, replace, confirm, re-open.

Every step reads the journal and the chain and may be cut off anywhere: the next pass, perhaps of
the next process, does it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import anyio
from sqlalchemy import Connection

from fabstir.chain.identity import confirm_chain_identity
from fabstir.chain.keystore import Signer
from fabstir.chain.records import Block, ContractCall, Fees, TransactionReceipt
from fabstir.chain.rpc import Chain
from fabstir.db import Database
from fabstir.db.outbox import (
    Intention,
    OutboxRow,
    TransactionOutcome,
    TransactionStatus,
    add_filler,
    add_version,
    cancel_without_filler,
    mark_final,
    next_nonce,
    record_outcome,
    reopen,
    unfinished_transactions,
)
from fabstir.db.signed import SignedVersion
from fabstir.primitives.errors import (
    ChainError,
    FabstirError,
    InsufficientFunds,
    RpcRefused,
    TransactionReverted,
)
from fabstir.primitives.ids import Address, Hash32
from fabstir.primitives.units import COIN_DECIMALS, Wei

logger = logging.getLogger(__name__)

PLAIN_TRANSFER_GAS = 21_000
"""The least that any transaction uses, and all that a filler does."""

_FEE_CEILING = 10
"""No replacement offers more than so many times what the node suggests: when blocks stop coming,
higher fees do not bring them back."""

_MAX_REFUSALS = 3
"""A refusal for a reason that may pass (a full pool) is one for good when it comes so often."""

# Texts of geth, reth, erigon, nethermind and anvil; matched in lower case.
_ALREADY_THERE = ("already known", "already imported", "known transaction", "already exists")
_NONCE_USED = ("nonce too low", "nonce is too low")
_FEE_TOO_LOW = ("underpriced", "less than block base fee", "fee too low", "max fee per gas less")
_NO_FUNDS = ("insufficient funds", "insufficient balance", "overshot")


class TransactionSettler:
    """The unfinished transactions of one account."""

    def __init__(
        self,
        chain: Chain,
        signer: Signer,
        db: Database,
        *,
        stuck_after: float,
        final_depth: int,
        on_change: Callable[[OutboxRow], None],
    ) -> None:
        self._chain = chain
        self._signer = signer
        self._db = db
        self._stuck_after = stuck_after
        self._final_depth = final_depth
        self._on_change = on_change
        self._sent_at: dict[int, float] = {}
        """When this process last tried to broadcast each row; absent: not yet."""
        self._refusals: dict[int, int] = {}
        self._failures: dict[int, FabstirError] = {}
        self._nonce_gone_at: dict[int, float] = {}
        self._seen_head: Hash32 | None = None

    def sign(self, intention: Intention, nonce: int, fees: Fees) -> SignedVersion:
        """The intention as a transaction."""
        return self._signer.sign_transaction(
            chain_id=intention.chain_id,
            nonce=nonce,
            to=intention.to,
            value=intention.value,
            data=intention.data,
            gas_limit=intention.gas_limit,
            max_fee_per_gas=fees.max_fee_per_gas,
            max_priority_fee_per_gas=fees.max_priority_fee_per_gas,
        )

    def failure_of(self, row: OutboxRow) -> FabstirError:
        """Why a row was given up, as the error that its sender gets."""
        return self._failures.get(row.id) or ChainError(f"{row.description}: {row.refusal}")

    async def settle_once(self) -> bool:
        """One pass.

        Returns:
            True when nothing is left to watch.
        """
        rows = await self._unfinished()
        if not rows:
            return True
        head = await self._chain.latest_block()
        if head.hash != self._seen_head:
            # What was signed for one devnet is valid on the next of its id, for another session.
            await confirm_chain_identity(self._chain, self._db)
            await self._recheck_mined([row for row in rows if row.outcome is not None], head)
            self._seen_head = head.hash
        pending = [row for row in await self._unfinished() if row.outcome is None]
        if pending:
            num_mined = await self._chain.nonce(self._signer.address)
            for row in pending:
                if row.nonce < num_mined:
                    await self._confirm(row)
                else:
                    await self._send(row)
        return False

    async def _unfinished(self) -> list[OutboxRow]:
        chain_id, account = self._chain.chain_id, self._signer.address
        return await self._db.read(lambda c: unfinished_transactions(c, chain_id, account))

    # Mined

    async def _confirm(self, row: OutboxRow) -> None:
        """The row's nonce is used: find out by what."""
        receipt = await self._find_receipt(row)
        if receipt is None:
            await self._replace_lost_nonce(row)
            return
        status, refusal = TransactionStatus.MINED, None
        if any(v.is_filler and v.tx_hash == receipt.tx_hash for v in row.versions):
            status, refusal = TransactionStatus.CANCELLED, row.refusal
        elif not receipt.is_success:
            status, refusal = TransactionStatus.REVERTED, await self._revert_reason(row, receipt)
        price = receipt.effective_gas_price
        if price is None:
            price = await self._chain.price_paid(receipt.tx_hash)
        if price is None:  # what it offered at most
            by_hash = {v.tx_hash: v.max_fee_per_gas for v in row.versions}
            price = by_hash[receipt.tx_hash]
        outcome = TransactionOutcome(
            status=status,
            tx_hash=receipt.tx_hash,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
            gas_used=receipt.gas_used,
            effective_gas_price=price,
        )
        self._sent_at.pop(row.id, None)
        self._refusals.pop(row.id, None)
        await self._change(lambda c: record_outcome(c, row.id, outcome, refusal), durable=False)

    async def _find_receipt(self, row: OutboxRow) -> TransactionReceipt | None:
        for version in reversed(row.versions):
            if receipt := await self._chain.receipt(version.tx_hash):
                return receipt
        return None

    async def _revert_reason(self, row: OutboxRow, receipt: TransactionReceipt) -> str:
        """Run the call again on the block before: the receipt itself does not say why."""
        if receipt.gas_used == row.gas_limit:
            return f"out of gas (limit {row.gas_limit})"
        try:
            tag = receipt.block_number - 1
            await self._chain.read(_call_of(row), sender=row.account, tag=tag)
        except TransactionReverted as exc:
            return exc.reason
        except RpcRefused as exc:
            return exc.reason
        return "the state changed before it was mined"

    async def _recheck_mined(self, mined: Sequence[OutboxRow], head: Block) -> None:
        """Re-open what a reorg took out; let go of what is deep enough."""
        if not mined:
            return
        newest = max(mined, key=lambda row: row.outcome.block_number if row.outcome else 0)
        assert newest.outcome is not None, "mined rows have an outcome"
        block = await self._chain.block(newest.outcome.block_number)
        # If the newest of their blocks is still in the chain, so are all that it is built on.
        if block is None or block.hash != newest.outcome.block_hash:
            for row in mined:
                await self._recheck(row)
            return
        deep = [
            row.id
            for row in mined
            if row.outcome and row.outcome.block_number <= head.number - self._final_depth
        ]
        if deep:
            await self._db.write(lambda connection: mark_final(connection, deep), durable=False)

    async def _recheck(self, row: OutboxRow) -> None:
        assert row.outcome is not None, "only mined rows are looked at again"
        receipt = await self._chain.receipt(row.outcome.tx_hash)
        if receipt is not None and receipt.block_hash == row.outcome.block_hash:
            return
        logger.warning(
            "a reorg took a transaction out of the chain; it is sent again",
            extra={"tx_hash": row.outcome.tx_hash, "action": row.description},
        )
        await self._change(lambda connection: reopen(connection, row), durable=True)

    # Not mined

    async def _send(self, row: OutboxRow) -> None:
        """Broadcast a row for the first time, or again with higher fees when it takes too long."""
        sent_at = self._sent_at.get(row.id)
        if sent_at is not None:
            if anyio.current_time() < sent_at + self._stuck_after:
                return
            row = await self._raise_fees(row)
        self._sent_at[row.id] = anyio.current_time()
        refusal = await self._broadcast(row)
        if refusal is None:
            self._refusals.pop(row.id, None)
        else:
            await self._handle_refusal(row, refusal)

    async def _broadcast(self, row: OutboxRow) -> RpcRefused | None:
        """Offer the newest version, and older ones if the node refuses it (too dear, perhaps).

        Returns:
            None once the node has one of them, else why it refused the newest.
        """
        first: RpcRefused | None = None
        is_cancelling = row.status is TransactionStatus.CANCELLING
        for version in reversed(row.versions):
            if version.nonce != row.nonce or version.is_filler != is_cancelling:
                continue
            try:
                await self._chain.send_raw(version.raw)
            except RpcRefused as exc:
                if _says(exc, _ALREADY_THERE) or _says(exc, _NONCE_USED):
                    return None  # in the pool, or mined just now: the next pass finds the receipt
                first = first or exc
            else:
                return None
        return first

    async def _handle_refusal(self, row: OutboxRow, refusal: RpcRefused) -> None:
        count = self._refusals[row.id] = self._refusals.get(row.id, 0) + 1
        logger.warning(
            "the chain's node refuses a transaction",
            extra={"action": row.description, "reason": refusal.reason, "count": count},
        )
        if row.status is TransactionStatus.CANCELLING:
            return  # the filler is offered again, with higher fees, until the account can pay it
        if is_lack_of_funds(refusal):
            balance = await self._chain.balance(row.account)
            needed = row.value + row.gas_limit * row.versions[-1].max_fee_per_gas
            failure = cannot_pay(row.account, max(needed, balance + 1), balance)
            await self._cancel(row, refusal.reason, failure)
        elif _says(refusal, _FEE_TOO_LOW):
            if await self._raise_fees(row) is not row:
                self._sent_at.pop(row.id)  # the new version goes out with the next pass
        elif count >= _MAX_REFUSALS:
            text = f"{row.description}: the chain's node refuses the transaction: {refusal.reason}"
            await self._cancel(row, refusal.reason, ChainError(text))

    async def _cancel(self, row: OutboxRow, reason: str, failure: FabstirError) -> None:
        """Let a filler take over the nonce: without it every later transaction would wait."""
        fees = _raised(row.versions[-1], await self._chain.fees())
        filler = self._sign_filler(row, fees)
        self._failures[row.id] = failure
        self._sent_at.pop(row.id, None)
        await self._change(lambda c: add_filler(c, row, filler, reason), durable=True)

    def _sign_filler(self, row: OutboxRow, fees: Fees) -> SignedVersion:
        return self._signer.sign_transaction(
            chain_id=row.chain_id,
            nonce=row.nonce,
            to=row.account,
            value=Wei(0),
            data=b"",
            gas_limit=PLAIN_TRANSFER_GAS,
            max_fee_per_gas=fees.max_fee_per_gas,
            max_priority_fee_per_gas=fees.max_priority_fee_per_gas,
            is_filler=True,
        )

    async def _raise_fees(self, row: OutboxRow) -> OutboxRow:
        """Store a version with higher fees, unless they are absurd already."""
        suggested = await self._chain.fees()
        newest = row.versions[-1]
        fees = _raised(newest, suggested)
        if fees.max_fee_per_gas > _FEE_CEILING * suggested.max_fee_per_gas:
            return row
        version = (
            self._sign_filler(row, fees) if newest.is_filler else self.sign(row, row.nonce, fees)
        )
        logger.info(
            "replacing a transaction that is not mined",
            extra={"action": row.description, "max_fee_per_gas": fees.max_fee_per_gas},
        )
        return await self._db.write(lambda c: add_version(c, row, version), durable=True)

    async def _replace_lost_nonce(self, row: OutboxRow) -> None:
        """Another program sent a transaction of this account with our nonce: take a new one.

        Only after some time: a node behind a load balancer may know the new nonce of the account
        before it has our receipt. And never while it knows a transaction of ours: some nodes give
        no receipts while they index.
        """
        gone_at = self._nonce_gone_at.setdefault(row.id, anyio.current_time())
        if anyio.current_time() < gone_at + self._stuck_after:
            return
        for version in row.versions:
            if version.nonce == row.nonce and await self._chain.is_known(version.tx_hash):
                return
        logger.warning(
            "another program uses this account: a nonce of ours was taken",
            extra={"account": row.account, "nonce": row.nonce, "action": row.description},
        )
        self._nonce_gone_at.pop(row.id)
        self._sent_at.pop(row.id, None)
        if row.status is TransactionStatus.CANCELLING:
            await self._give_up(row, row.refusal or "", self.failure_of(row))
            return
        try:
            await self._chain.estimate_gas(_call_of(row), row.account)
        except TransactionReverted as exc:
            await self._give_up(row, exc.reason, exc)
            return
        fees = await self._chain.fees()
        known_nonce = await self._chain.nonce(row.account, tag="pending")

        def move(connection: Connection) -> OutboxRow:
            nonce = max(known_nonce, next_nonce(connection, row.chain_id, row.account))
            return add_version(connection, row, self.sign(row, nonce, fees))

        await self._change(move, durable=True)

    async def _give_up(self, row: OutboxRow, reason: str, failure: FabstirError) -> None:
        self._failures[row.id] = failure
        await self._change(lambda c: cancel_without_filler(c, row, reason), durable=True)

    async def _change(self, fn: Callable[[Connection], OutboxRow], *, durable: bool) -> None:
        self._on_change(await self._db.write(fn, durable=durable))


def _raised(version: SignedVersion, suggested: Fees) -> Fees:
    """At least 12.5 % above the version (nodes demand 10 %), and at least what is suggested."""

    def raised(fee: Wei) -> int:
        return fee + -(-fee // 8) + 1

    return Fees(
        Wei(max(raised(version.max_fee_per_gas), suggested.max_fee_per_gas)),
        Wei(max(raised(version.max_priority_fee_per_gas), suggested.max_priority_fee_per_gas)),
    )


def _call_of(row: OutboxRow) -> ContractCall:
    return ContractCall(to=row.to, data=row.data, value=row.value, description=row.description)


def cannot_pay(account: Address, needed: int, balance: int) -> InsufficientFunds:
    """In coins; `needed` is in wei, with the most that gas may cost."""
    unit = "ETH (gas included)"
    return InsufficientFunds(account, needed, balance, unit, decimals=COIN_DECIMALS)


def is_lack_of_funds(refusal: RpcRefused) -> bool:
    """Whether the node refuses because the account cannot pay."""
    return _says(refusal, _NO_FUNDS)


def _says(refusal: RpcRefused, texts: Sequence[str]) -> bool:
    reason = refusal.reason.lower()
    return any(text in reason for text in texts)
