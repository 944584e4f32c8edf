"""A host's books: what was delivered, what was agreed to, what was claimed, what was paid.

One place for all of a host's money. Every step that a renter or the chain can see is a row here
before it happens, and each row says what is to be done when it is found unfinished.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from fabstir.db import Database, claims, host_sessions, receipts
from fabstir.db.claims import ClaimRow, ClaimState
from fabstir.db.host_sessions import SessionKey, SessionRow, SessionState
from fabstir.db.receipts import ReceiptRow
from fabstir.primitives.ids import Address, ChainId, Hash32, JobId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS
from fabstir.protocol.receipts import ChainHead, SignedAcknowledgement, SignedReceipt

_logger = logging.getLogger(__name__)

LEFT: Final = "left to its renter: it is not worth the gas of its end"
"""The outcome of a session that is not settled and will not be by this host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Where a session's tokens stand; each number includes the one after it.

    Attributes:
        agreed: acknowledged, or served to a client that knows no acknowledgements.
        planned: claimed, whether or not the transaction is mined yet.
        proven: on chain.
    """

    agreed: TokenCount
    planned: TokenCount
    proven: TokenCount

    @property
    def claimable(self) -> TokenCount:
        """Agreed to, and in no claim yet."""
        return TokenCount(max(0, self.agreed - self.planned))

    @property
    def unproven(self) -> TokenCount:
        """Agreed to, and not on chain yet."""
        return TokenCount(max(0, self.agreed - self.proven))


class HostLedger:
    """The books of one host on one marketplace."""

    def __init__(self, db: Database, chain_id: ChainId, contract: Address) -> None:
        self._db = db
        self._chain_id = chain_id
        self._contract = contract

    def key(self, job_id: JobId) -> SessionKey:
        """The session's name in the journal."""
        return SessionKey(self._chain_id, self._contract, job_id)

    async def session(self, job_id: JobId) -> SessionRow | None:
        """A session, or None if it was never seen."""
        return await self._db.read(lambda c: host_sessions.load_session(c, self.key(job_id)))

    async def sessions(self, *, unsettled_only: bool) -> list[SessionRow]:
        """All of them, oldest first."""
        return await self._db.read(
            lambda c: host_sessions.list_sessions(
                c, self._chain_id, self._contract, unsettled_only=unsettled_only
            )
        )

    async def remember(self, row: SessionRow) -> tuple[SessionRow, bool]:
        """Journal a session as the chain has it.

        Returns:
            The journal's row, and whether it replaced another session's.

        Where the chain has other terms than the journal, it wins: a reorg gave the number to
        another session, so its books begin anew, and nothing of the old ones is claimed of it.
        """

        def write(c: Connection) -> tuple[SessionRow, bool]:
            known = host_sessions.load_session(c, row.key)
            if known is not None and known.is_same_session(row):
                return known, False
            if known is None:
                host_sessions.insert_session(c, row)
            else:
                receipts.void_after(c, row.key, 0)
                claims.void_claims(c, row.key, "another session had this number before a reorg")
                host_sessions.replace_session(c, row)
                extra = {"job_id": row.job_id, "was": known.depositor, "now": row.depositor}
                _logger.warning("the chain has another session of this number", extra=extra)
            return row, known is not None

        return await self._db.write(write, durable=True)

    async def use_handshake(self, job_id: JobId, ephemeral_public_key: bytes) -> bool:
        """Whether an init is seen for the first time."""
        return await self._db.write(
            lambda c: host_sessions.use_ephemeral_key(c, ephemeral_public_key, job_id),
            durable=False,
        )

    async def bind_renter(
        self, job_id: JobId, signer: Address, *, is_proven: bool, recovery: bytes | None
    ) -> SessionRow | None:
        """Say who speaks for the renter from now on; None if somebody does to whom it must yield.

        Nothing that came with another signer stays. When a proven signer takes over from another
        one that was not, what that one used and was neither claimed nor acknowledged yet never
        will be.
        """
        key = self.key(job_id)

        def write(c: Connection) -> SessionRow | None:
            row = host_sessions.load_session(c, key)
            assert row is not None, "the session was just remembered"
            if not row.yields_to(signer, is_proven=is_proven):
                return None
            is_new_signer = row.signer not in {None, signer}
            if is_new_signer and not row.is_proven:
                self._write_off_unproven(c, row)
            kept = None if is_new_signer else row.recovery_public_key
            host_sessions.update_session(
                c,
                key,
                signer=signer,
                is_proven=is_proven,
                recovery_public_key=recovery or kept,
            )
            return host_sessions.load_session(c, key)

        return await self._db.write(write, durable=False)

    @staticmethod
    def _write_off_unproven(c: Connection, row: SessionRow) -> None:
        delivered = _delivered_at_most(c, row)
        claimed = _last_claim(c, row.key)
        settled = (
            receipts.find_in_chain(c, row.key, claimed.end_token) if claimed else None,
            receipts.last_acknowledged(c, row.key),
        )
        kept = max(filter(None, settled), key=lambda each: each.sequence, default=None)
        receipts.void_after(c, row.key, kept.sequence if kept else 0)
        tokens = kept.cumulative_tokens if kept else TokenCount(0)
        lost = max(0, delivered - tokens)
        host_sessions.update_session(
            c,
            row.key,
            tokens_reserved=tokens,
            tokens_written_off=row.tokens_written_off + lost,
        )

    async def write_off_unproven(self, job_id: JobId) -> None:
        """Once more, after an unproven signer's socket has stopped.

        It may have been answered while `bind_renter` took the session from it.
        """
        key = self.key(job_id)

        def write(c: Connection) -> None:
            row = host_sessions.load_session(c, key)
            assert row is not None, "its signer was just evicted"
            self._write_off_unproven(c, row)

        await self._db.write(write, durable=False)

    async def resume(self, job_id: JobId) -> ChainHead:
        """The link after which a new connection goes on; what came after it never counts."""
        key = self.key(job_id)

        def write(c: Connection) -> ChainHead:
            last = receipts.last_claimable(c, key)
            receipts.void_after(c, key, last.sequence if last else 0)
            _write_off_after(c, key, last.cumulative_tokens if last else TokenCount(0))
            if last is None:
                return ChainHead()
            return ChainHead(
                sequence=last.sequence,
                hash=last.receipt_hash,
                cumulative_tokens=last.cumulative_tokens,
                tokens_before_request=last.cumulative_tokens,
            )

        return await self._db.write(write, durable=False)

    async def touch(self, job_id: JobId, now: float) -> None:
        """An authenticated socket is (or was until now) open for the session."""
        await self._update(job_id, durable=False, last_seen_at=now)

    async def reserve(self, job_id: JobId, up_to: TokenCount) -> None:
        """Before tokens are delivered: no more than `up_to` will be."""
        key = self.key(job_id)
        await self._db.write(lambda c: host_sessions.reserve_tokens(c, key, up_to), durable=False)

    async def release(self, job_id: JobId, delivered: TokenCount) -> None:
        """After an answer: no more than `delivered` were, whatever was reserved for it."""
        key = self.key(job_id)

        def write(c: Connection) -> None:
            row = host_sessions.load_session(c, key)
            if row is not None and row.tokens_reserved > delivered:
                host_sessions.update_session(c, key, tokens_reserved=delivered)

        await self._db.write(write, durable=False)

    async def add_receipt(
        self,
        job_id: JobId,
        receipt_hash: Hash32,
        signed: SignedReceipt,
        *,
        is_claimable: bool,
        reserve_up_to: TokenCount,
    ) -> None:
        """Before a receipt is sent; reserves the next window's tokens in the same commit."""
        key = self.key(job_id)

        def write(c: Connection) -> None:
            receipts.insert_receipt(c, key, receipt_hash, signed, is_claimable=is_claimable)
            host_sessions.reserve_tokens(c, key, reserve_up_to)

        await self._db.write(write, durable=False)

    async def find_receipt(self, receipt_hash: Hash32) -> ReceiptRow | None:
        """A receipt of ours, by its hash."""
        return await self._db.read(lambda c: receipts.find_receipt(c, receipt_hash))

    async def acknowledge(self, signed: SignedAcknowledgement) -> bool:
        """Store the renter's agreement; False if the receipt is not one of ours."""
        receipt_hash = signed.acknowledgement.receipt_hash
        return await self._db.write(
            lambda c: receipts.acknowledge(c, receipt_hash, signed.to_json()), durable=False
        )

    async def balance(self, job_id: JobId) -> Balance:
        """Where the session's tokens stand."""

        def read(c: Connection) -> Balance:
            key = self.key(job_id)
            last = receipts.last_claimable(c, key)
            return Balance(
                agreed=last.cumulative_tokens if last else TokenCount(0),
                planned=_end_of(c, key, ClaimState.PLANNED, ClaimState.MINED),
                proven=_end_of(c, key, ClaimState.MINED),
            )

        return await self._db.read(read)

    async def receipts(self, job_id: JobId, *, after: TokenCount) -> list[ReceiptRow]:
        """The chain that counts, first receipt first, beyond `after` cumulative tokens."""
        return await self._db.read(lambda c: receipts.list_chain(c, self.key(job_id), after))

    async def claims(self, job_id: JobId) -> list[ClaimRow]:
        """What was claimed, first claim first."""
        return await self._db.read(lambda c: claims.list_claims(c, self.key(job_id)))

    async def plan_claim(self, job_id: JobId, claim: ClaimRow, head: Hash32) -> bool:
        """Before a claim is sent; False if its last receipt, `head`, does not count any more."""

        def write(c: Connection) -> bool:
            if not receipts.is_claimable(c, head):
                return False
            claims.insert_claim(c, self.key(job_id), claim)
            return True

        return await self._db.write(write, durable=True)

    async def finish_claim(
        self,
        job_id: JobId,
        claim: ClaimRow,
        state: ClaimState,
        *,
        tx_hash: Hash32 | None = None,
        reason: str | None = None,
    ) -> None:
        """After a claim was mined or refused."""
        await self._db.write(
            lambda c: claims.finish_claim(
                c, self.key(job_id), claim.claim_index, state, tx_hash=tx_hash, reason=reason
            ),
            durable=True,
        )

    async def close(self, job_id: JobId, reason: str) -> None:
        """The renter is done or gone: prove and settle from here on, also after a restart."""

        def write(c: Connection) -> None:
            row = host_sessions.load_session(c, self.key(job_id))
            if row and row.state == SessionState.OPEN:
                host_sessions.update_session(c, row.key, state=SessionState.CLOSING, outcome=reason)

        await self._db.write(write, durable=True)

    async def leave(self, job_id: JobId) -> None:
        """Its end would cost more than it brings: it is served no more, and its renter ends it."""

        def write(c: Connection) -> None:
            row = host_sessions.load_session(c, self.key(job_id))
            if row and row.state != SessionState.SETTLED:
                values = {"state": SessionState.CLOSING, "outcome": LEFT}
                host_sessions.update_session(c, row.key, **values)

        await self._db.write(write, durable=True)

    async def settled(
        self, job_id: JobId, *, tokens: TokenCount, host_paid: Wei, refund: Wei, outcome: str
    ) -> SessionRow | None:
        """The chain says that it is over. Returns the final row, what was lost included."""

        def write(c: Connection) -> SessionRow | None:
            row = host_sessions.load_session(c, self.key(job_id))
            if row is None or row.state == SessionState.SETTLED:
                return None
            lost = max(0, _delivered_at_most(c, row) - tokens)
            host_sessions.update_session(
                c,
                row.key,
                state=SessionState.SETTLED,
                tokens_settled=tokens,
                host_paid=host_paid,
                refund=refund,
                tokens_written_off=row.tokens_written_off + lost,
                outcome=outcome,
            )
            host_sessions.forget_ephemeral_keys(c, job_id)
            return host_sessions.load_session(c, row.key)

        return await self._db.write(write, durable=True)

    async def _update(self, job_id: JobId, *, durable: bool, **values: object) -> None:
        key = self.key(job_id)
        await self._db.write(
            lambda c: host_sessions.update_session(c, key, **values), durable=durable
        )


def _delivered_at_most(connection: Connection, row: SessionRow) -> TokenCount:
    """What can have been delivered by the time of a crash.

    Everything is reserved first, and an acknowledgement is journalled before anything is
    delivered because of it.
    """
    last = receipts.last_claimable(connection, row.key)
    agreed = last.cumulative_tokens if last else 0
    return TokenCount(min(row.tokens_reserved, agreed + MAX_UNACKNOWLEDGED_TOKENS))


def _write_off_after(connection: Connection, key: SessionKey, agreed: TokenCount) -> None:
    """What was delivered beyond `agreed` on a connection that is gone is nobody's debt."""
    row = host_sessions.load_session(connection, key)
    if row is not None and row.tokens_reserved > agreed:
        lost = _delivered_at_most(connection, row) - agreed
        host_sessions.update_session(
            connection,
            key,
            tokens_reserved=agreed,
            tokens_written_off=row.tokens_written_off + lost,
        )


def _last_claim(connection: Connection, key: SessionKey) -> ClaimRow | None:
    rows = claims.list_claims(connection, key)
    counted = [row for row in rows if row.state != ClaimState.REFUSED]
    return max(counted, key=lambda row: row.end_token, default=None)


def _end_of(connection: Connection, key: SessionKey, *states: ClaimState) -> TokenCount:
    rows = claims.list_claims(connection, key)
    return TokenCount(max((row.end_token for row in rows if row.state in states), default=0))
