"""What the chain tells this host of its sessions: opened, ended, and by whom.

Events are only a reason to look: what is booked is always read from the contract itself, so a
reorg, a repeated batch or a missed one changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import anyio

from fabstir.chain.contracts import SessionStatus
from fabstir.chain.events import SessionCompleted, SessionCreated, SessionTimedOut, decode_event
from fabstir.chain.records import Log
from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import ChainError, StorageError
from fabstir.primitives.ids import Address, JobId
from fabstir.rails.session_job.contract import SessionContract
from fabstir.rails.session_job.records import ChainRecords
from fabstir.rails.session_job.settler import Settler

_logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 2.0
"""Before events are looked at again that the chain or the journal failed."""


class ChainStep(Protocol):
    """What `chain.follower` gives: the events of some blocks, or that blocks left the chain."""

    @property
    def logs(self) -> Sequence[Log]:
        """In the order of the chain; none where blocks left it."""
        ...

    async def commit(self) -> None:
        """They are dealt with; raises StorageError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFollower:
    """Books what happens to this host's sessions on chain."""

    contract: SessionContract
    records: ChainRecords
    ledger: HostLedger
    settler: Settler
    host: Address
    retry_seconds: float = RETRY_SECONDS

    async def run(self, steps: AsyncIterator[ChainStep]) -> None:
        """Until cancelled."""
        async for step in steps:
            await self._book(step.logs)
            await self._commit(step)
            self.settler.wake()

    async def _commit(self, step: ChainStep) -> None:
        """However long the journal is away."""
        while True:
            try:
                return await step.commit()
            except StorageError as error:
                extra = {"reason": str(error)}
                _logger.warning("how far events were read is noted soon", extra=extra)
            await anyio.sleep(self.retry_seconds)

    async def _book(self, logs: Sequence[Log]) -> None:
        """Look at what the events are about, however long chain and journal cannot be asked."""
        for log in logs:
            while not await self._look_at(log):  # noqa: ASYNC110 - nobody tells when they can
                await anyio.sleep(self.retry_seconds)

    async def _look_at(self, log: Log) -> bool:
        try:
            event = decode_event(log)
        except ChainError as error:
            # It will not look better the next time, and holds up those behind it.
            _logger.warning("an event that is none is passed over", extra={"reason": str(error)})
            return True
        try:
            match event:
                case SessionCreated(job_id=job_id, host=host) if host == self.host:
                    await self._opened(job_id)
                case SessionCompleted(job_id=job_id) | SessionTimedOut(job_id=job_id):
                    await self._ended(job_id)
                case _:
                    return True
        except (ChainError, StorageError) as error:
            _logger.warning("an event is looked at again soon", extra={"reason": str(error)})
            return False
        return True

    async def _opened(self, job_id: JobId) -> None:
        job = await self.contract.session(job_id)
        if job is None or job.status != SessionStatus.ACTIVE:
            return
        await self.records.row_of(job)
        extra = {"job_id": job_id, "deposit": job.deposit, "depositor": job.depositor}
        _logger.info("a session was opened with this host", extra=extra)

    async def _ended(self, job_id: JobId) -> None:
        if await self.ledger.session(job_id) is not None:
            await self.settler.record_end(job_id, await self.contract.session(job_id))
