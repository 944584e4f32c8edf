"""The journal's row of a session, held to what the chain says of it at this moment.

A job's number is not its identity: a reorg, or a devnet that was started again, gives it to another
depositor. So whoever admits, claims or settles asks here first, and a row whose terms are not the
chain's begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fabstir.chain.contracts import SessionJob
from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import ChainError
from fabstir.primitives.ids import JobId, ModelId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.eip712 import Domain
from fabstir.rails.session_job.contract import SessionContract


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRecords:
    """Reads sessions from the chain into the journal.

    Attributes:
        on_restart: told of each session whose books began anew; must not wait.
    """

    contract: SessionContract
    ledger: HostLedger
    domain: Domain
    clock: Callable[[], float]
    on_restart: Callable[[JobId], None]

    async def row_of(self, job: SessionJob) -> SessionRow:
        """The journal's row of a session of the chain.

        Raises:
            ChainError: the chain does not answer, is another one, or says two things.
        """
        await self.contract.check_chain()
        fresh = await self._read(job)
        known = await self.ledger.session(job.id)
        if known is not None:
            if known.is_same_session(fresh):
                return known
            await self._look_again(fresh)
        row, is_replaced = await self.ledger.remember(fresh)
        if is_replaced:
            self.on_restart(job.id)
        return row

    async def _read(self, job: SessionJob) -> SessionRow:
        model_id = await self.contract.session_model(job.id)
        return row_of_job(job, model_id, self.domain, self.clock())

    async def _look_again(self, fresh: SessionRow) -> None:
        """Before books are dropped: one wrong answer of the chain's node is no other session."""
        job = await self.contract.session(fresh.job_id)
        if job is None or not (await self._read(job)).is_same_session(fresh):
            raise ChainError(
                f"the chain's node says two things of session {fresh.job_id}: it is asked again"
            )


def row_of_job(job: SessionJob, model_id: ModelId, domain: Domain, now: float) -> SessionRow:
    """A session as the journal first sees it."""
    return SessionRow(
        chain_id=domain.chain_id,
        contract=domain.contract,
        job_id=job.id,
        depositor=job.depositor,
        payment_token=job.payment_token,
        deposit=job.deposit,
        price_per_token=job.price_per_token,
        model_id=model_id,
        proof_interval=job.proof_interval,
        proof_window=job.proof_timeout_window,
        started_at=job.start_time,
        max_duration=job.max_duration,
        state=SessionState.OPEN,
        signer=None,
        is_proven=False,
        recovery_public_key=None,
        tokens_reserved=TokenCount(0),
        tokens_written_off=TokenCount(0),
        last_seen_at=now,
    )
