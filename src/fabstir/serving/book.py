"""The sessions that are live in this process, and which socket may use each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.exchange.account import HostAccount
from fabstir.protocol.exchange.phases import HostPhase, HostStep
from fabstir.protocol.host_messages import ProofMessage
from fabstir.rails.rail import Said
from fabstir.serving.gate import Admission
from fabstir.serving.models import ServedModel
from fabstir.serving.session import LiveSession
from fabstir.telemetry.waiting import KeyedLocks

Evict = Callable[[], Awaitable[None]]
"""Tells the former connection that the session is no longer its own."""

EVICTION_SECONDS: Final = 10.0
"""Longest wait for the former socket's answer to stop: it waits for the journal alone."""


class SessionBook:
    """Opens sessions through the gate and hands them from socket to socket."""

    def __init__(self, ledger: HostLedger, random: Callable[[int], bytes]) -> None:
        """`random` gives secure random bytes."""
        self._ledger = ledger
        self._random = random
        self._live: dict[JobId, LiveSession] = {}
        self._evict: dict[JobId, Evict] = {}
        self._holders: dict[JobId, object] = {}
        self._handovers = KeyedLocks()
        self.is_draining = False

    def __len__(self) -> int:
        return sum(1 for session in self._live.values() if session.account.is_held)

    # -- handing over -------------------------------------------------------------------------

    async def open(self, admission: Admission, holder: object, evict: Evict) -> LiveSession:
        """Give an admitted session to its connection.

        Re-opening on the same connection keeps the conversation; another connection of the same
        renter takes the session over; one of a proven renter evicts an unproven one and starts
        afresh.

        Raises:
            SessionRefused: it was taken over meanwhile, or is being settled.
        """
        # One handover at a time: a second connection of the same renter waits until the first
        # has the session, and then takes it over.
        async with self._handovers.hold(admission.row.job_id):
            return await self._hand_over(admission, holder, evict)

    def require_serving(self) -> None:
        """Raises SessionRefused: this host is shutting down."""
        if self.is_draining:
            raise SessionRefused(
                "DRAINING", "this host is shutting down: what you used is proven, choose another"
            )

    async def _hand_over(self, admission: Admission, holder: object, evict: Evict) -> LiveSession:
        job_id = admission.row.job_id
        session = self._live.get(job_id)
        if session is not None and self._holders.get(job_id) is not holder:
            # Also where its connection is closed: the answer that ran there may not be over yet.
            with anyio.move_on_after(EVICTION_SECONDS):
                await self._evict[job_id]()
        row = await self._ledger.session(job_id)
        if row is None or row.signer != admission.signer:
            raise SessionRefused(
                "SESSION_EVICTED", f"session {job_id} was taken over while this socket opened it"
            )
        is_new_signer = session is not None and session.row.signer != row.signer
        if session is not None and is_new_signer and not session.row.is_proven:
            await self._ledger.write_off_unproven(job_id)
        head = await self._ledger.resume(job_id)
        proven = (await self._ledger.balance(job_id)).proven
        row = await self._ledger.session(job_id)
        if row is None or row.state != SessionState.OPEN:
            raise SessionRefused(
                "SESSION_NOT_ACTIVE", f"session {job_id} is being settled: open another"
            )
        if session is not None and session.account.phase in {HostPhase.CLOSING, HostPhase.OVER}:
            session.account.advance(HostStep.ADMITTED)  # refused: it is being settled
        if session is None or is_new_signer:
            session = self._begin(row, admission.model, session)
        session.row = row
        session.account.resume(head, holder)
        session.account.proven = proven
        self._live[job_id], self._evict[job_id] = session, evict
        self._holders[job_id] = holder
        return session

    def _begin(
        self, row: SessionRow, model: ServedModel, former: LiveSession | None
    ) -> LiveSession:
        """A session without a past for its signer: what was said to another one is not its own.

        What another one lost is: else a renter could get a window for nothing with each new key.
        """
        assert row.signer is not None, "somebody was just admitted"
        account = HostAccount(
            job_id=row.job_id,
            deposit=row.deposit,
            price_per_token=row.price_per_token,
            signer=row.signer,
        )
        session = LiveSession(row=row, model=model, account=account, seed_nonce=self._random(32))
        if former is not None:
            account.lost = former.account.lost + max(0, former.account.unacknowledged)
        else:
            session.has_forgotten = row.tokens_reserved > 0
        return session

    def release(self, holder: object) -> None:
        """A connection closed: its sessions wait for the renter to come back."""
        for session in self._live.values():
            if session.account.holder is holder:
                session.account.release()
                session.on_proof = session.on_over = None

    # -- for the rails: see rails.rail.LiveSessions ---------------------------------------------

    def is_present(self, job_id: JobId) -> bool:
        """Whether a connection has the session."""
        session = self._live.get(job_id)
        return session is not None and session.account.is_held

    def said(self, job_id: JobId) -> Said | None:
        """What waits for the next claim's checkpoint."""
        session = self._live.get(job_id)
        return session and Said(row=session.row, messages=tuple(session.transcript))

    def published(self, job_id: JobId, said: Said) -> None:
        """It is in a checkpoint now."""
        session = self._live.get(job_id)
        if session is not None and session.row.signer == said.row.signer:
            del session.transcript[: len(said.messages)]

    def proven(self, job_id: JobId, up_to: TokenCount, proof: ProofMessage) -> None:
        """A claim was mined."""
        session = self._live.get(job_id)
        if session is None:
            return
        session.account.proven = up_to
        session.changed()
        if session.on_proof is not None:
            session.on_proof(proof)

    def stop(self, job_id: JobId) -> None:
        """No further answer is begun."""
        if (session := self._live.get(job_id)) is not None:
            session.account.advance(HostStep.CLOSE)

    def forget(self, job_id: JobId) -> None:
        """The session is over, or its number another one's: its answer stops, its connection gets
        no other, its conversation goes.
        """
        session = self._live.pop(job_id, None)
        if session is not None:
            session.account.advance(HostStep.SETTLED)
            session.changed()
            if session.on_over is not None:
                session.on_over()
        self._evict.pop(job_id, None)
        self._holders.pop(job_id, None)
