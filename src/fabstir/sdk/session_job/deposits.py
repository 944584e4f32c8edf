"""Locking a deposit, exactly once, whatever happens in between.

The session stands in the journal before its transaction is made, and the transaction is named
after the session's own id. So after a crash the outbox knows whether the deposit is on its way,
in the chain, or was never sent; `resolve` asks it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import anyio

from fabstir.chain.abi import load_abi
from fabstir.chain.contracts import Contracts, Erc20, SessionOffer
from fabstir.chain.rpc import Chain
from fabstir.chain.transactions import TransactionQueue
from fabstir.db.outbox import TransactionStatus
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.errors import ChainError, InsufficientFunds, TransactionReverted
from fabstir.primitives.ids import NATIVE_TOKEN, Hash32, JobId
from fabstir.sdk.journal import RenterJournal

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposits:
    """Opens sessions on chain for one wallet."""

    chain: Chain
    contracts: Contracts
    queue: TransactionQueue
    journal: RenterJournal
    _allowance: anyio.Lock = field(default_factory=anyio.Lock)
    """An approval replaces the one before: two ERC-20 deposits at a time would undo each other."""

    async def lock(self, session: RenterSession) -> RenterSession:
        """Send the deposit of a journalled session; returns it with its number.

        Raises:
            InsufficientFunds, TransactionReverted: nothing is locked, the session has failed.
            TransactionStuck, RpcUnavailable: it may still be mined; the watcher follows it.
        """
        try:
            return await self._send(session)
        except TransactionReverted as error:
            await self._failed(session, error.reason)
            raise
        except ChainError as error:
            if await self.journal.find_transaction(open_key(session)) is None:
                await self._failed(session, str(error))
            raise

    async def resolve(self, session: RenterSession) -> RenterSession:
        """What became of a deposit that was cut off: waits for one that is on its way.

        Returns:
            The session, still opening if its transaction is being taken back.

        Raises:
            ChainError: the chain does not answer, or the transaction is still not mined.
        """
        row = await self.journal.find_transaction(open_key(session))
        if row is None:
            return await self._failed(session, "the deposit was never sent")
        if row.status is TransactionStatus.CANCELLING:
            return session
        try:
            return await self._send_open(session)
        except TransactionReverted as error:
            return await self._failed(session, error.reason)

    async def _send(self, session: RenterSession) -> RenterSession:
        if session.payment_token == NATIVE_TOKEN:
            return await self._send_open(session)
        async with self._allowance:
            await self._approve(session)
            return await self._send_open(session)

    async def _approve(self, session: RenterSession) -> None:
        token = Erc20(self.chain, session.payment_token)
        wallet, spender = session.depositor, session.contract
        available = await token.balance(wallet)
        if available < session.deposit:
            unit, decimals = await token.symbol(), await token.decimals()
            raise InsufficientFunds(wallet, session.deposit, available, unit, decimals=decimals)
        if await token.allowance(wallet, spender) < session.deposit:
            await self.queue.send(approve_key(session), token.approve(spender, session.deposit))

    async def _send_open(self, session: RenterSession) -> RenterSession:
        call = self.contracts.marketplace.create_session(offer_of(session))
        mined = await self.queue.send(open_key(session), call)
        job_id = await self._job_id(mined.tx_hash)
        return await self.journal.update(
            session, state=RenterState.OPEN, job_id=job_id, opened_block=mined.block_number
        )

    async def _job_id(self, tx_hash: Hash32) -> JobId:
        receipt = await self.chain.receipt(tx_hash)
        event = load_abi("JobMarketplaceWithModels").events["SessionJobCreated"]
        marketplace = self.contracts.marketplace.address
        for log in receipt.logs if receipt else ():
            if log.address == marketplace and log.topics[:1] == (event.topic,):
                return JobId(event.decode(log)[0])
        raise ChainError(
            f"{self.chain.shown_url} shows no session in the deposit's transaction {tx_hash}: it "
            "is not in the chain (any more); run `fabstir sessions recover` later"
        )

    async def _failed(self, session: RenterSession, reason: str) -> RenterSession:
        _logger.info("deposit failed", extra={"session": session.id, "reason": reason})
        return await self.journal.update(session, state=RenterState.FAILED, outcome=reason)


def offer_of(session: RenterSession) -> SessionOffer:
    """The terms that the marketplace is asked for."""
    return SessionOffer(
        host=session.host,
        model_id=session.model_id,
        payment_token=session.payment_token,
        deposit=session.deposit,
        price_per_token=session.price_per_token,
        max_duration=session.max_duration,
        proof_interval=session.proof_interval,
        proof_timeout_window=session.proof_window,
    )


def open_key(session: RenterSession) -> str:
    """The deposit's name in the outbox: ours, because the session has no number yet."""
    return f"renter:{session.id}:open"


def approve_key(session: RenterSession) -> str:
    """The ERC-20 allowance's name in the outbox."""
    return f"renter:{session.id}:approve"
