"""The watcher: proves in time, settles what is over, so that nobody's money stays locked.

What to do for a session is one pure function of its books, the clock and the chain's terms; the
loop only does it. It runs after every event and at least every `poll_seconds`, and starts over
after a crash from the journal alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import anyio

from fabstir.chain.contracts import Marketplace, SessionJob, SessionStatus
from fabstir.chain.gas_price import GasPrice
from fabstir.chain.records import ContractCall
from fabstir.chain.transactions import TransactionQueue
from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.market.ledger import Balance, HostLedger
from fabstir.market.worth import HostTerms
from fabstir.primitives.errors import ChainError, StorageError, TransactionReverted
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.rails.rail import Closing, LiveSessions
from fabstir.rails.session_job.claims import Claimer
from fabstir.rails.session_job.records import ChainRecords
from fabstir.telemetry.waiting import Changes

_logger = logging.getLogger(__name__)

CLAIM_NUMERATOR, CLAIM_DENOMINATOR = 3, 4
"""A claim is sent at three quarters of the tokens that may be unproven, so that it is usually
mined before delivery would have to stop."""

PROOF_MARGIN_SECONDS: Final = 60
"""How long before a proof window runs out an idle session's tokens are proven; a quarter of the
window if that is shorter."""


MAX_PARALLEL_LOOKS: Final = 16
"""Sessions that are looked at side by side: one that waits for a block holds up no other."""

LEFT_SECONDS: Final = 600.0
"""How long a session that is not worth its gas is not looked at again: gas may get cheaper."""


class Action(Enum):
    """What a session needs now."""

    WAIT = auto()
    CLAIM = auto()
    CLOSE = auto()
    SETTLE = auto()
    TIME_OUT = auto()
    LEAVE = auto()
    """To its renter: ending it would cost this host more than it earns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that decides what a session needs.

    Attributes:
        chain_now: Unix time of the chain; windows on chain count by it.
        now: this machine's Unix time; a renter's absence counts by it.
        serving_since: when this process began: nobody could come before.
        is_present: a socket is open for the session.
        max_unproven, min_claim, min_end: tokens; see `market.worth.HostTerms`.
    """

    row: SessionRow
    balance: Balance
    last_proof_at: int
    dispute_window: int
    chain_now: int
    now: float
    serving_since: float
    is_present: bool
    max_unproven: int
    min_claim: int
    min_end: int
    reconnect_grace: float

    @property
    def is_claim_due(self) -> bool:
        """Something agreed to is not on chain, and is worth a claim; or a claim is on its way."""
        balance = self.balance
        is_on_its_way = balance.planned > balance.proven
        return is_on_its_way or balance.unproven >= self.min_claim

    @property
    def has_run_out(self) -> bool:
        """Its time is over, or its window is and nobody is there to use it any more.

        A pause ends no session by its own host, however long: anyone else may time it out.
        """
        if self.chain_now > self.row.started_at + self.row.max_duration:
            return True
        is_window_over = self.chain_now > self.last_proof_at + self.row.proof_window
        return is_window_over and self.is_absent

    @property
    def is_absent(self) -> bool:
        """No socket is open, and none was for longer than the grace, in which one could be."""
        absent_since = max(self.row.last_seen_at, self.serving_since)
        return not self.is_present and self.now > absent_since + self.reconnect_grace

    @property
    def is_abandoned(self) -> bool:
        """Its renter was here and is gone for longer than the grace, in which it could have come.

        A session that nobody ever opened here is left alone: its renter may be late, or the
        session may be served by another process of this host.
        """
        return self.row.signer is not None and self.is_absent


def next_action(situation: Situation) -> Action:
    """What the session needs now."""
    row, balance = situation.row, situation.balance
    if situation.has_run_out or row.state == SessionState.CLOSING:
        return _end_of(situation)
    if situation.is_abandoned:
        return Action.CLOSE
    is_much = balance.unproven * CLAIM_DENOMINATOR >= situation.max_unproven * CLAIM_NUMERATOR
    if is_much and situation.is_claim_due:
        return Action.CLAIM
    margin = min(PROOF_MARGIN_SECONDS, row.proof_window // 4)
    deadline = min(situation.last_proof_at + row.proof_window, row.started_at + row.max_duration)
    if situation.is_claim_due and situation.chain_now >= deadline - margin:
        return Action.CLAIM
    return Action.WAIT


def _end_of(situation: Situation) -> Action:
    """Nothing more is served: claim, then end it, each if it is worth its gas."""
    if situation.is_claim_due:
        return Action.CLAIM
    if situation.balance.proven < max(1, situation.min_end):
        return Action.LEAVE
    if situation.has_run_out:
        return Action.TIME_OUT
    is_free = situation.chain_now > situation.last_proof_at + situation.dispute_window
    return Action.SETTLE if is_free else Action.WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Settler:
    """Does what sessions need, for the length of `run`."""

    ledger: HostLedger
    claimer: Claimer
    marketplace: Marketplace
    records: ChainRecords
    terms: HostTerms
    gas_price: GasPrice
    queue: TransactionQueue
    live: LiveSessions
    dispute_window: int
    reconnect_grace: float
    chain_time: Callable[[], Awaitable[int]]
    clock: Callable[[], float]
    serving_since: float
    poll_seconds: float
    _calls: Changes = field(default_factory=Changes)
    _looked_at: set[JobId] = field(default_factory=set[JobId])
    _left_at: dict[JobId, float] = field(default_factory=dict[JobId, float])
    _num_reverted: dict[JobId, int] = field(default_factory=dict[JobId, int])

    def max_unproven(self, row: SessionRow) -> int:
        """Tokens of a session that may be delivered beyond its last proof."""
        return self.terms.max_unproven_of(row, self.gas_price.value)

    def wake(self) -> None:
        """Look at all sessions now."""
        self._calls.tell()

    def agreed(self, row: SessionRow, unproven: int) -> None:
        """Wake the loop if so many tokens that are not on chain call for a claim."""
        limit = self.max_unproven(row)
        if unproven * CLAIM_DENOMINATOR >= limit * CLAIM_NUMERATOR:
            self.wake()

    async def run(self) -> None:
        """Until cancelled. Chain and journal are waited for, never given up."""
        limiter = anyio.CapacityLimiter(MAX_PARALLEL_LOOKS)
        async with anyio.create_task_group() as tasks:
            while True:
                wake = self._calls.next
                for row in filter(self._needs_look, await self._unsettled()):
                    self._looked_at.add(row.job_id)
                    tasks.start_soon(self._look_safely, row, limiter)
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
        return row.signer is not None and not is_left and row.job_id not in self._looked_at

    async def _look_safely(self, row: SessionRow, limiter: anyio.CapacityLimiter) -> None:
        try:
            async with limiter:
                await self._look_at(row)
        except (ChainError, StorageError) as error:
            extra = {"job_id": row.job_id, "reason": str(error)}
            _logger.warning("settlement waits for chain or disk", extra=extra)
        finally:
            self._looked_at.discard(row.job_id)

    async def close(self, row: SessionRow) -> Closing:
        """The renter is done: prove everything now that is worth it. See `Rail.close`."""
        await self.ledger.close(row.job_id, "closed by its renter")
        proven = await self.claimer.claim(row.job_id)
        self.wake()
        job = await self.marketplace.session(row.job_id)
        last_proof_at = job.last_proof_time if job else row.started_at
        left = last_proof_at + self.dispute_window - await self.chain_time()
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
        job = await self.marketplace.session(row.job_id)
        if job is None:
            await self._miss(row)
            return
        if job.status != SessionStatus.ACTIVE:
            await self.record_end(row.job_id, job)
            return
        if (row.depositor, row.started_at) != (job.depositor, job.start_time):
            await self.records.row_of(job)
            return
        gas_price, balance = await self.gas_price.look(), await self.ledger.balance(row.job_id)
        is_present = self.live.is_present(row.job_id)
        if is_present:
            await self.ledger.touch(row.job_id, self.clock())
        situation = Situation(
            row=row,
            balance=balance,
            last_proof_at=job.last_proof_time,
            dispute_window=self.dispute_window,
            chain_now=await self.chain_time(),
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
        await self.records.check_chain()
        if await self.chain_time() > row.started_at + row.max_duration:
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
                call = self.marketplace.trigger_timeout(row.job_id)
                await self._send_end(row, "timeout", call)
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
        call = self.marketplace.complete_session(row.job_id, claims[-1].delta_cid if claims else "")
        await self._send_end(row, "complete", call)

    async def _leave(self, row: SessionRow) -> None:
        """Serve it no more and spend nothing on it: its renter ends it, or nobody has to."""
        await self.ledger.leave(row.job_id)
        self.live.forget(row.job_id)
        self._left_at[row.job_id] = self.clock()
        _logger.info("a session is not worth its gas", extra={"job_id": row.job_id})
        self.wake()

    async def _send_end(self, row: SessionRow, action: str, call: ContractCall) -> None:
        # A number may be another session's after a reorg; its start and depositor are not.
        key = f"{row.contract}:{row.job_id}:{action}:{row.started_at}:{row.depositor}"
        if num_reverted := self._num_reverted.get(row.job_id, 0):
            key += f":{num_reverted}"
        try:
            await self.queue.send(key, call)
        except TransactionReverted as error:
            # The renter was faster, or the chain's clock is behind ours: the next round sees.
            extra = {"job_id": row.job_id, "reason": error.reason}
            _logger.info("settlement was refused, trying later", extra=extra)
            if error.tx_hash is not None:  # it is in the chain, so its key is used up
                self._num_reverted[row.job_id] = num_reverted + 1
            return
        await self.record_end(row.job_id, await self.marketplace.session(row.job_id))

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
