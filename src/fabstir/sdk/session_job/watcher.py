"""Money comes home by itself: every session of the journal is followed until it is settled.

What to do for a session is one pure function of journal and chain (`next_step`), so a renter that
was killed starts over from both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio

from fabstir.chain.abi import load_abi
from fabstir.chain.contracts import Contracts, SessionJob, SessionStatus
from fabstir.chain.records import ContractCall, Log, LogFilter
from fabstir.chain.rpc import Chain
from fabstir.chain.transactions import TransactionQueue
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.errors import ChainError, StorageError, TransactionReverted
from fabstir.primitives.units import Wei
from fabstir.sdk.journal import RenterJournal
from fabstir.sdk.money import PaymentToken, SessionSettlement
from fabstir.sdk.session_job.deposits import Deposits
from fabstir.sdk.session_job.situation import (
    KEEP_SECONDS,
    DepositSituation,
    Step,
    next_step,
    settling_patience,
)

_logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 15.0
"""Between two looks at unfinished sessions: a refund that is seen so much later hurts nobody."""

SETTLE_POLL_SECONDS: Final = 1.0
"""Between two looks while the host is expected to settle: half a block of Base."""

MAX_ATTEMPTS: Final = 8
"""At what others can spoil by being mined first: each attempt costs the gas of a refusal."""

_SETTLED_EVENTS: Final = ("SessionCompleted", "SessionTimedOut")

MAX_LOG_RANGE: Final = 2000
"""Blocks of one eth_getLogs: what public RPC endpoints allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Follows the sessions of one wallet, for the length of `run`.

    Attributes:
        in_use: ids of the sessions that this process uses; they are left alone.
    """

    chain: Chain
    contracts: Contracts
    queue: TransactionQueue
    journal: RenterJournal
    deposits: Deposits
    clock: Callable[[], float]
    keep: float = KEEP_SECONDS
    poll_seconds: float = POLL_SECONDS
    in_use: set[str] = field(default_factory=set[str])

    async def run(self) -> None:
        """Until cancelled. A chain or a database that does not answer is waited for, never given
        up."""
        while True:
            try:
                await self.look_at_all()
            except StorageError as error:
                _logger.warning(
                    "the sessions are looked at again soon", extra={"reason": str(error)}
                )
            await anyio.sleep(self.poll_seconds)

    async def look_at_all(self) -> list[RenterSession]:
        """One round over every unfinished session that nobody uses; returns them as they are now.

        A session whose turn fails because of chain or journal is logged and tried again next time.
        """
        rows = await self.journal.sessions(unfinished_only=True)
        return [await self._try(row) for row in rows if row.id not in self.in_use]

    async def bring_home(self, session: RenterSession, *, now: bool = False) -> RenterSession:
        """Do what one session needs, and what it needs next, until it waits or is over.

        Args:
            now: settle at once, even if the host has not claimed all that was acknowledged.

        Raises:
            ChainError: the chain does not answer or does not take the transaction.
        """
        if session.state is RenterState.OPENING:
            session = await self.deposits.resolve(session)
        while session.state is not RenterState.OPENING and not session.state.is_over:
            situation = await self.situation(session)
            step = next_step(situation)
            if now and situation.job.status is SessionStatus.ACTIVE:
                step = Step.COMPLETE
            if step is Step.WAIT:
                return session
            session = await self._do(step, session, situation.job)
        return await self._withdraw(session)

    async def situation(self, session: RenterSession) -> DepositSituation:
        """Journal and chain side by side.

        Raises:
            ChainError: the chain does not know the session: its node lags, or a reorg took the
                deposit and the outbox is sending it again. Never a reason to forget it.
        """
        assert session.job_id is not None, "it has a number once its deposit is in the chain"
        job = await self.contracts.marketplace.session(session.job_id)
        if job is None or job.depositor != session.depositor:
            raise ChainError(
                f"{self.chain.shown_url} does not know session {session.job_id} of "
                f"{session.depositor} (any more): its node may lag, so it is asked again"
            )
        return DepositSituation(
            session=session,
            job=job,
            tokens_agreed=await self.journal.tokens_agreed(session),
            chain_now=max((await self.chain.latest_block()).timestamp, int(self.clock())),
            now=self.clock(),
            keep=self.keep,
        )

    async def let_host_settle(self, session: RenterSession, settles_in: int) -> RenterSession:
        """Give the host the time that it asks for to settle, as far as the contract needs it.

        Returns:
            The session as it is then.
        """
        window = await self.contracts.marketplace.dispute_window()
        patience = settling_patience(await self.situation(session), settles_in, window)
        with anyio.move_on_after(patience):
            while not session.state.is_over:
                situation = await self.situation(session)
                if next_step(situation) is Step.RECORD:
                    return await self._withdraw(await self._record(session, situation.job))
                await anyio.sleep(SETTLE_POLL_SECONDS)
        return session

    async def settlement(self, session: RenterSession, token: PaymentToken) -> SessionSettlement:
        """Where the deposit went, or until when it waits."""
        tx_hash = waits_until = None
        if session.state is RenterState.SETTLED:
            head = await self.chain.block_number()
            first = max(session.opened_block or 0, head - MAX_LOG_RANGE + 1)
            event = await self._find_event(session, _SETTLED_EVENTS, first, head)
            tx_hash = event.tx_hash if event else None
        elif session.job_id is not None and not session.state.is_over:
            waits_until = (await self.situation(session)).runs_out_at
        return SessionSettlement.of(
            session,
            token,
            await self.journal.tokens_agreed(session),
            tx_hash=tx_hash,
            waits_until=waits_until,
        )

    async def _try(self, session: RenterSession) -> RenterSession:
        try:
            latest = await self.journal.load(session.id)
            if latest is None or session.id in self.in_use:
                return session
            return await self.bring_home(latest)
        except (ChainError, StorageError) as error:
            extra = {"session": session.id, "job_id": session.job_id, "reason": str(error)}
            _logger.warning("session waits for chain or journal", extra=extra)
            return session

    async def _do(self, step: Step, session: RenterSession, job: SessionJob) -> RenterSession:
        assert session.job_id is not None, "it has a number once its deposit is in the chain"
        market = self.contracts.marketplace
        match step:
            case Step.CLOSE:
                return await self.journal.update(session, state=RenterState.CLOSING)
            case Step.COMPLETE:
                await self._settle(session, "complete", market.complete_session(session.job_id))
            case Step.TIME_OUT:
                await self._settle(session, "timeout", market.trigger_timeout(session.job_id))
            case _:
                return await self._record(session, job)
        return session

    async def _settle(self, session: RenterSession, action: str, call: ContractCall) -> None:
        try:
            await self._send(job_key(session, action), call)
        except TransactionReverted:
            assert session.job_id is not None, "it was about to be settled"
            job = await self.contracts.marketplace.session(session.job_id)
            if job is not None and job.status is SessionStatus.ACTIVE:
                raise
            # The host was faster; the next look records what it did.

    async def _send(self, key: str, call: ContractCall) -> None:
        """Send it, and again where it was refused in a block but is not any more: somebody else
        was mined before it.

        Raises:
            TransactionReverted: it is refused now, or was too often.
        """
        refused: TransactionReverted | None = None
        for attempt in range(MAX_ATTEMPTS):
            try:
                await self.queue.send(f"{key}:{attempt}" if attempt else key, call)
            except TransactionReverted as error:
                if error.tx_hash is None:  # nothing was sent: the contract does not take it
                    raise
                refused = error
            else:
                return
        assert refused is not None, "every attempt ended in a refusal"
        raise refused

    async def _record(self, session: RenterSession, job: SessionJob) -> RenterSession:
        credited = await self._credited(session, job)
        _logger.info(
            "session settled",
            extra={"job_id": job.id, "tokens": job.tokens_used, "refund": job.refunded_to_user},
        )
        return await self.journal.update(
            session,
            state=RenterState.SETTLED,
            tokens_settled=job.tokens_used,
            host_paid=job.withdrawn_by_host,
            refund=job.refunded_to_user,
            refund_credited=credited,
            outcome=job.status.name.lower().replace("_", " "),
        )

    async def _credited(self, session: RenterSession, job: SessionJob) -> Wei:
        """The part of the refund that could not be paid out; 0 nearly always.

        The free balance tells cheaply; only if there is one are the events searched, because it
        may as well be money that the owner deposited on purpose.
        """
        free = await self.contracts.marketplace.deposit_balance(
            session.depositor, session.payment_token
        )
        if free == 0 or job.refunded_to_user == 0:
            return Wei(0)
        head = await self.chain.block_number()
        for first in range(session.opened_block or 0, head + 1, MAX_LOG_RANGE):
            last = min(first + MAX_LOG_RANGE - 1, head)
            if await self._find_event(session, ("RefundCreditedToDeposit",), first, last):
                return job.refunded_to_user
        return Wei(0)

    async def _withdraw(self, session: RenterSession) -> RenterSession:
        if not session.refund_credited:
            return session
        market, token = self.contracts.marketplace, session.payment_token
        if await market.deposit_balance(session.depositor, token) >= session.refund_credited:
            call = market.withdraw(token, session.refund_credited)
            await self._send(job_key(session, "withdraw"), call)
        return await self.journal.update(session, refund_credited=Wei(0))

    async def _find_event(
        self, session: RenterSession, names: tuple[str, ...], first: int, last: int
    ) -> Log | None:
        abi = load_abi("JobMarketplaceWithModels")
        topics = tuple(abi.events[name].topic for name in names)
        log_filter = LogFilter(addresses=(session.contract,), topics=topics)
        logs = await self.chain.logs(log_filter, first, last)
        own = (log for log in logs if int.from_bytes(log.topics[1], "big") == session.job_id)
        return next(own, None)


def job_key(session: RenterSession, action: str) -> str:
    """The name in the outbox of what is done to a session that has a number."""
    return f"{session.contract}:{session.job_id}:{action}"
