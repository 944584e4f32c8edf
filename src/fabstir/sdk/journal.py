"""The renter's journal: what is locked where, and what was agreed to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sqlalchemy import Connection

from fabstir.db import Database, DatabaseReader, outbox, renter
from fabstir.db.outbox import OutboxRow
from fabstir.db.renter import RenterSession, SessionOutcome
from fabstir.market.selection import UNKNOWN, HostHistory
from fabstir.primitives.errors import SpendingCapReached
from fabstir.primitives.ids import Address, ChainId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.receipts import SignedAcknowledgement, SignedReceipt
from fabstir.sdk.money import PaymentToken

TIMED_OUT: Final = "timed out"
"""The outcome of a session whose host let its window pass."""


class JournalReader:
    """The journal of one wallet on one marketplace, to look at."""

    def __init__(
        self, db: DatabaseReader, chain_id: ChainId, contract: Address, depositor: Address
    ) -> None:
        self._reads = db
        self.chain_id = chain_id
        self.contract = contract
        self.depositor = depositor

    async def load(self, session_id: str) -> RenterSession | None:
        """A session by our own id."""
        return await self._reads.read(lambda c: renter.load_session(c, session_id))

    async def sessions(self, *, unfinished_only: bool = False) -> list[RenterSession]:
        """All sessions, oldest first; those of other wallets in the same journal are left out."""
        rows = await self._reads.read(
            lambda c: renter.list_sessions(
                c, self.chain_id, self.contract, unfinished_only=unfinished_only
            )
        )
        return [row for row in rows if row.depositor == self.depositor]

    async def last_acknowledgement(self, session: RenterSession) -> SignedAcknowledgement | None:
        """What the session goes on after."""
        return await self._reads.read(lambda c: renter.last_acknowledgement(c, session.id))

    async def tokens_agreed(self, session: RenterSession) -> TokenCount:
        """Completion tokens that were acknowledged."""
        last = await self.last_acknowledgement(session)
        return last.acknowledgement.cumulative_tokens if last else TokenCount(0)

    async def histories(self) -> dict[Address, HostHistory]:
        """How each host served this wallet in the sessions that are settled."""
        outcomes = await self._reads.read(
            lambda c: renter.list_outcomes(c, self.chain_id, self.contract, self.depositor)
        )
        histories: dict[Address, HostHistory] = {}
        for outcome in outcomes:
            histories[outcome.host] = _after(histories.get(outcome.host, UNKNOWN), outcome)
        return histories

    async def find_transaction(self, key: str) -> OutboxRow | None:
        """A transaction of this wallet in the outbox."""
        return await self._reads.read(
            lambda c: outbox.find_transaction(c, self.chain_id, self.depositor, key)
        )


class RenterJournal(JournalReader):
    """The journal of one wallet on one marketplace."""

    def __init__(
        self,
        db: Database,
        chain_id: ChainId,
        contract: Address,
        depositor: Address,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(db, chain_id, contract, depositor)
        self._db = db
        self._clock = clock

    async def begin(self, session: RenterSession, cap: Wei, token: PaymentToken) -> None:
        """Journal a session before its deposit is sent.

        Raises:
            SpendingCapReached: with it, more than `cap` would be locked at a time.
        """

        def write(c: Connection) -> None:
            locked = renter.locked_deposits(c, self.chain_id, self.contract, session.payment_token)
            if locked + session.deposit > cap:
                raise SpendingCapReached(
                    f"{token.format(locked)} are locked in sessions already; with this deposit of "
                    f"{token.format(session.deposit)} they would exceed the spending cap of "
                    f"{token.format(cap)}: close a session, lower the deposit, or raise "
                    "renter.spending_cap_native or renter.spending_cap_usdc"
                )
            renter.insert_session(c, session)

        await self._db.write(write, durable=True)

    async def update(self, session: RenterSession, **values: object) -> RenterSession:
        """Change a session; the names are those of RenterSession. Returns it changed."""
        await self._db.write(lambda c: renter.update_session(c, session.id, **values), durable=True)
        return replace(session, **values)  # pyright: ignore[reportArgumentType] - update_session takes the same names

    async def agree(
        self, session: RenterSession, receipt: SignedReceipt, signed: SignedAcknowledgement
    ) -> None:
        """Before an acknowledgement is sent: what it agrees to is ours to remember."""
        now = self._clock()
        await self._db.write(
            lambda c: renter.insert_receipt(c, session.id, receipt, signed, now), durable=True
        )

    async def touch(self, session: RenterSession) -> None:
        """The session is in use."""
        now = self._clock()
        await self._db.write(
            lambda c: renter.update_session(c, session.id, last_used_at=now), durable=False
        )


def _after(history: HostHistory, outcome: SessionOutcome) -> HostHistory:
    agreed, settled = outcome.tokens_agreed, outcome.tokens_settled
    if settled > agreed:
        return replace(history, num_overcharged=history.num_overcharged + 1)
    if settled < agreed and outcome.outcome == TIMED_OUT:
        return replace(history, num_silent=history.num_silent + 1)
    return replace(history, num_served=history.num_served + 1) if agreed else history
