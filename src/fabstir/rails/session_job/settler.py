"""The watcher: proves in time, settles what is over, so that nobody's money stays locked.

What to do for a session is `next_action`'s to say; the loop only does it. It runs after every event
and at least every `poll_seconds`, and starts over after a crash from the journal alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio

from fabstir.chain.contracts import SessionJob, SessionStatus
from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.market.ledger import HostLedger
from fabstir.market.worth import HostTerms
from fabstir.primitives.errors import ChainError, StorageError, TransactionReverted
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.rails.rail import Closing, LiveSessions
from fabstir.rails.session_job.claims import Claimer
from fabstir.rails.session_job.contract import SessionContract
from fabstir.rails.session_job.records import ChainRecords
from fabstir.rails.session_job.situation import Action, Situation, is_much, next_action
from fabstir.telemetry.waiting import Changes

_logger = logging.getLogger(__name__)

MAX_PARALLEL_LOOKS: Final = 16
"""Sessions that are looked at side by side: one that waits for a block holds up no other."""

LEFT_SECONDS: Final = 600.0
"""How long a session that is not worth its gas is not looked at again: gas may get cheaper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settler:
    """Does what sessions need, for the length of `run`."""

    ledger: HostLedger
    claimer: Claimer
    contract: SessionContract
    records: ChainRecords
    terms: HostTerms
    live: LiveSessions
    dispute_window: int
    reconnect_grace: float
    clock: Callable[[], float]
    serving_since: float
    poll_seconds: float
    _calls: Changes = field(default_factory=Changes)
    _looked_at: set[JobId] = field(default_factory=set[JobId])
    _called_again: set[JobId] = field(default_factory=set[JobId])
    _left_at: dict[JobId, float] = field(default_factory=dict[JobId, float])
    _num_reverted: dict[JobId, int] = field(default_factory=dict[JobId, int])

    def max_unproven(self, row: SessionRow) -> int:
        """Tokens of a session that may be delivered beyond its last proof."""
        return self.terms.max_unproven_of(row, self.contract.gas_price)

    def wake(self) -> None:
        """Look at all sessions now."""
        self._calls.tell()

    def agreed(self, row: SessionRow, unproven: int) -> None:
        """Wake the loop if so many tokens that are not on chain call for a claim."""
        if is_much(unproven, self.max_unproven(row)):
            self.wake()

    async def run(self) -> None:
        """Until cancelled. Chain and journal are waited for, never given up."""
        limiter = anyio.CapacityLimiter(MAX_PARALLEL_LOOKS)
        async with anyio.create_task_group() as tasks:
            while True:
                wake = self._calls.next
                for row in await self._unsettled():
                    if row.job_id in self._looked_at:
                        self._called_again.add(row.job_id)
                    elif self._needs_look(row):
                        self._looked_at.add(row.job_id)
                        tasks.start_soon(self._look_in_turn, row, limiter)
                with anyio.move_on_after(self.poll_seconds):
                    await wake.wait()

    async def _unsettled(self) -> list[SessionRow]:
        try:
            return await self.ledger.sessions(unsettled_only=True)
        except StorageError as error:
            _logger.warning("settlement waits for the journal", extra={"reason": str(error)})
            return []

    def _needs_look(self, row: SessionRow) -> bool:
        """Not one that nobody ever opened here: there is nothing in it for this host."""
        left_at = self._left_at.get(row.job_id)
        is_left = left_at is not None and self.clock() < left_at + LEFT_SECONDS
        return row.signer is not None and not is_left

    async def _look_in_turn(self, row: SessionRow, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            await self.look(row)

    async def look(self, row: SessionRow) -> None:
        """Do what a session needs now; what chain or disk keep from it waits for the next look."""
        try:
            await self._look_at(row)
        except (ChainError, StorageError) as error:
            extra = {"job_id": row.job_id, "reason": str(error)}
            _logger.warning("settlement waits for chain or disk", extra=extra)
        finally:
            self._looked_at.discard(row.job_id)
            if row.job_id in self._called_again:  # what this look may have come too early for
                self._called_again.discard(row.job_id)
                self.wake()

    async def close(self, row: SessionRow) -> Closing:
        """The renter is done: prove everything now that is worth it. See `Rail.close`."""
        await self.ledger.close(row.job_id, "closed by its renter")
        proven = await self.claimer.claim(row.job_id)
        self.wake()
        job = await self.contract.session(row.job_id)
        last_proof_at = job.last_proof_time if job else row.started_at
        left = last_proof_at + self.dispute_window - await self.contract.time()
        balance = await self.ledger.balance(row.job_id)
        is_left = balance.claimable < await self.claimer.min_claim(row, balance)
        return Closing(
            tokens_proven=proven,
            is_final=balance.planned == balance.proven and is_left,
            settles_in=max(0, left),
        )

    async def prove_all(self) -> None:
        """On shutdown: whatever was agreed to goes on chain before the process ends."""
        async with anyio.create_task_group() as tasks:
            for row in await self.ledger.sessions(unsettled_only=True):
                if row.signer is not None:
                    tasks.start_soon(self._prove_safely, row.job_id)

    async def _prove_safely(self, job_id: JobId) -> None:
        try:
            await self.claimer.claim(job_id)
        except (ChainError, StorageError) as error:
            extra = {"job_id": job_id, "reason": str(error)}
            _logger.warning("a last proof waits for the next start", extra=extra)

    async def settle_closing(self) -> None:
        """On shutdown: wait until no session is left that only waits to be settled."""
        while True:
            rows = await self.ledger.sessions(unsettled_only=True)
            closing = (row.job_id for row in rows if row.state == SessionState.CLOSING)
            if all(job_id in self._left_at for job_id in closing):
                return
            with anyio.move_on_after(self.poll_seconds):
                await self._calls.wait()

    async def _look_at(self, row: SessionRow) -> None:
        job = await self.contract.session(row.job_id)
        if job is None:
            await self._miss(row)
            return
        if job.status != SessionStatus.ACTIVE:
            await self.record_end(row.job_id, job)
            return
        if (row.depositor, row.started_at) != (job.depositor, job.start_time):
            await self.records.row_of(job)
            return
        gas_price = await self.contract.look_at_gas_price()
        balance = await self.ledger.balance(row.job_id)
        is_present = self.live.is_present(row.job_id)
        if is_present:
            await self.ledger.touch(row.job_id, self.clock())
        situation = Situation(
            row=row,
            balance=balance,
            last_proof_at=job.last_proof_time,
            dispute_window=self.dispute_window,
            chain_now=await self.contract.time(),
            now=self.clock(),
            serving_since=self.serving_since,
            is_present=is_present,
            max_unproven=self.max_unproven(row),
            min_claim=self.terms.min_claim(row, balance.proven, gas_price),
            min_end=self.terms.min_end(row, gas_price),
            reconnect_grace=self.reconnect_grace,
        )
        await self._do(next_action(situation), row)

    async def _miss(self, row: SessionRow) -> None:
        """The chain's node does not know a session: it lags, or a reorg took it, perhaps for a
        while. That is no reason to forget it before its time would be over anyway.
        """
        await self.contract.check_chain()
        if await self.contract.time() > row.started_at + row.max_duration:
            await self.ledger.settled(
                row.job_id,
                tokens=TokenCount(0),
                host_paid=Wei(0),
                refund=Wei(0),
                outcome="not on this chain",
            )
            self._forget(row.job_id)

    async def _do(self, action: Action, row: SessionRow) -> None:
        match action:
            case Action.WAIT:
                return
            case Action.CLAIM:
                await self.claimer.claim(row.job_id)
            case Action.CLOSE:
                await self._abandon(row)
            case Action.SETTLE:
                await self._settle(row)
            case Action.TIME_OUT:
                send = partial(self.contract.trigger_timeout, job_id=row.job_id)
                await self._send_end(row, "timeout", send)
            case Action.LEAVE:
                await self._leave(row)

    async def _abandon(self, row: SessionRow) -> None:
        """Close a session whose renter is gone, unless it came back just now."""
        if self.live.is_present(row.job_id):
            return
        await self.ledger.close(row.job_id, "its renter did not come back")
        # It may have come back while that was written: it is served no further answer.
        self.live.stop(row.job_id)
        self.wake()

    async def _settle(self, row: SessionRow) -> None:
        claims = await self.ledger.claims(row.job_id)
        conversation = claims[-1].delta_cid if claims else ""
        send = partial(
            self.contract.complete_session, job_id=row.job_id, conversation_cid=conversation
        )
        await self._send_end(row, "complete", send)

    async def _leave(self, row: SessionRow) -> None:
        """Serve it no more and spend nothing on it: its renter ends it, or nobody has to."""
        await self.ledger.leave(row.job_id)
        self.live.forget(row.job_id)
        self._left_at[row.job_id] = self.clock()
        _logger.info("a session is not worth its gas", extra={"job_id": row.job_id})
        self.wake()

    async def _send_end(
        self, row: SessionRow, action: str, send: Callable[[str], Awaitable[None]]
    ) -> None:
        # A number may be another session's after a reorg; its start and depositor are not.
        key = f"{row.contract}:{row.job_id}:{action}:{row.started_at}:{row.depositor}"
        if num_reverted := self._num_reverted.get(row.job_id, 0):
            key += f":{num_reverted}"
        try:
            await send(key)
        except TransactionReverted as error:
            # The renter was faster, or the chain's clock is behind ours: the next round sees.
            extra = {"job_id": row.job_id, "reason": error.reason}
            _logger.info("settlement was refused, trying later", extra=extra)
            if error.tx_hash is not None:  # it is in the chain, so its key is used up
                self._num_reverted[row.job_id] = num_reverted + 1
            return
        await self.record_end(row.job_id, await self.contract.session(row.job_id))

    async def record_end(self, job_id: JobId, job: SessionJob | None) -> None:
        """Book what the chain says of a session that is over."""
        if job is None or job.status == SessionStatus.ACTIVE:
            return
        row = await self.ledger.settled(
            job_id,
            tokens=job.tokens_used,
            host_paid=job.withdrawn_by_host,
            refund=job.refunded_to_user,
            outcome=job.status.name.lower(),
        )
        self._forget(job_id)
        if row is not None:
            extra = {
                "job_id": job_id,
                "tokens": row.tokens_settled,
                "host_paid": row.host_paid,
                "refund": row.refund,
                "written_off_at_most": row.tokens_written_off,
            }
            _logger.info("session settled", extra=extra)

    def _forget(self, job_id: JobId) -> None:
        """Nothing is left to do for the session."""
        self.live.forget(job_id)
        self._left_at.pop(job_id, None)
        self._num_reverted.pop(job_id, None)
