"""The sessions that are live in this process, and which socket may use each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.jobs.gate import Admission, Gate
from fabstir.jobs.session import LiveSession, Send
from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.ids import JobId
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.serving.models import ServedModel

MAX_ADMISSIONS = 16
"""Handshakes at the gate at a time; each asks the chain some three times."""

ADMISSION_PATIENCE = 5.0
"""Seconds that a handshake waits for its turn."""

Evict = Callable[[], Awaitable[None]]
"""Tells the former socket that the session is no longer its own."""

EVICTION_SECONDS: Final = 10.0
"""Longest wait for the former socket's answer to stop: it waits for the journal alone."""


class SessionBook:
    """Opens sessions through the gate and hands them from socket to socket."""

    def __init__(self, gate: Gate, ledger: HostLedger, random: Callable[[int], bytes]) -> None:
        self._gate = gate
        self._ledger = ledger
        self._random = random
        self._live: dict[JobId, LiveSession] = {}
        self._evict: dict[JobId, Evict] = {}
        self._holders: dict[JobId, object] = {}
        self._handovers: dict[JobId, anyio.Lock] = {}
        self._admissions = anyio.CapacityLimiter(MAX_ADMISSIONS)
        self.is_draining = False

    def get(self, job_id: JobId) -> LiveSession | None:
        """A session that was opened since this process started."""
        return self._live.get(job_id)

    def __len__(self) -> int:
        return sum(1 for session in self._live.values() if session.owner is not None)

    async def open(
        self, message: EncryptedSessionInit, owner: object, send: Send, evict: Evict
    ) -> tuple[LiveSession, Admission]:
        """Admit a handshake and give the session to its socket.

        Re-opening on the same socket keeps the conversation; another socket of the same renter
        takes the session over; one of a proven renter evicts an unproven one and starts afresh.

        Raises:
            RemoteProtocolError, SessionRefused: see `Gate.admit`.
        """
        if self.is_draining:
            raise SessionRefused(
                "DRAINING", "this host is shutting down: what you used is proven, choose another"
            )
        admission = await self._admit(message)
        job_id = admission.row.job_id
        # One handover at a time: a second socket of the same renter waits until the first has
        # the session, and then takes it over.
        async with self._handovers.setdefault(job_id, anyio.Lock()):
            return await self._hand_over(admission, owner, send, evict), admission

    async def _admit(self, message: EncryptedSessionInit) -> Admission:
        """Strangers' handshakes look at the chain: never more than a few of them at a time."""
        try:
            with anyio.fail_after(ADMISSION_PATIENCE):
                await self._admissions.acquire()
        except TimeoutError:
            raise SessionRefused(
                "RATE_LIMITED",
                f"too many sessions are being opened here: try again in {ADMISSION_PATIENCE:g} s",
            ) from None
        try:
            return await self._gate.admit(message)
        finally:
            self._admissions.release()

    async def _hand_over(
        self, admission: Admission, owner: object, send: Send, evict: Evict
    ) -> LiveSession:
        job_id = admission.row.job_id
        session = self._live.get(job_id)
        if session is not None and self._holders.get(job_id) is not owner:
            # Also where its socket is closed: the answer that ran there may not be over yet.
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
        if row is None or row.state != SessionState.OPEN or (session and session.is_closing):
            raise SessionRefused(
                "SESSION_NOT_ACTIVE", f"session {job_id} is being settled: open another"
            )
        if session is None or is_new_signer:
            session = self._begin(row, admission.model, session)
        session.row = row
        session.resume(head)
        session.proven = proven
        session.owner, session.notify = owner, send
        self._live[job_id], self._evict[job_id] = session, evict
        self._holders[job_id] = owner
        return session

    def _begin(
        self, row: SessionRow, model: ServedModel, former: LiveSession | None
    ) -> LiveSession:
        """A session without a past for its signer: what was said to another one is not its own.

        What another one lost is: else a renter could get a window for nothing with each new key.
        """
        session = LiveSession(row=row, model=model, seed_nonce=self._random(32))
        if former is not None:
            session.lost = former.lost + max(0, former.unacknowledged)
        else:
            session.has_forgotten = row.tokens_reserved > 0
        return session

    def release(self, owner: object) -> list[LiveSession]:
        """A socket closed: its sessions wait for the renter to come back."""
        released = [session for session in self._live.values() if session.owner is owner]
        for session in released:
            session.owner = session.notify = session.on_over = None
        return released

    def forget(self, job_id: JobId) -> None:
        """The session is over, or its number another one's: its answer stops, its socket gets no
        other, its conversation goes.
        """
        session = self._live.pop(job_id, None)
        if session is not None:
            session.is_closing = session.is_over = True
            session.changed()
            if session.on_over is not None:
                session.on_over()
        self._evict.pop(job_id, None)
        self._holders.pop(job_id, None)
        self._handovers.pop(job_id, None)
