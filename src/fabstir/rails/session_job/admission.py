"""Whether a job of JobMarketplace may be served: what the chain says of it and of its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fabstir.chain.contracts import SessionStatus
from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.market.worth import HostTerms
from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.ids import Address, JobId, ModelId
from fabstir.protocol.exchange.handshake import Greeting
from fabstir.rails.rail import Funding
from fabstir.rails.session_job.contract import SessionContract
from fabstir.rails.session_job.records import ChainRecords

_MAX_JOB_ID: Final = 1 << 63
"""What the journal's integers hold; contracts number jobs from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAdmission:
    """The checks, with what they look at."""

    contract: SessionContract
    records: ChainRecords
    terms: HostTerms
    host: Address
    clock: Callable[[], float]

    async def admit(self, greeting: Greeting, accept: Callable[[ModelId], object]) -> Funding:
        """See `Rail.admit`."""
        row = await self._check_job(greeting.job_id, accept)
        wallet = greeting.wallet(self.clock())
        is_proven = wallet is not None and await self._speaks_for(row, wallet)
        if greeting.is_proof_due and not is_proven:
            raise greeting.not_depositor(row.depositor)
        if row.signer is None:
            await self._check_terms(row)
        return Funding(row=row, is_proven=is_proven)

    async def _check_job(self, job_id: JobId, accept: Callable[[ModelId], object]) -> SessionRow:
        if job_id >= _MAX_JOB_ID:
            raise SessionRefused("SESSION_NOT_FOUND", f"there is no session {job_id}")
        job = await self.contract.session(job_id)
        if job is None:
            domain = self.records.domain
            raise SessionRefused(
                "SESSION_NOT_FOUND",
                f"there is no session {job_id} on {domain.contract} (chain {domain.chain_id}): "
                "open one first",
            )
        if job.host != self.host:
            raise SessionRefused(
                "WRONG_HOST", f"session {job_id} is with host {job.host}, this is {self.host}"
            )
        if job.status != SessionStatus.ACTIVE:
            raise SessionRefused(
                "SESSION_NOT_ACTIVE",
                f"session {job_id} is {job.status.name.lower()} on chain: open another",
            )
        if await self.contract.time() > job.start_time + job.max_duration:
            raise SessionRefused(
                "SESSION_EXPIRED",
                f"session {job_id} is past its {job.max_duration} seconds: open another",
            )
        row = await self.records.row_of(job)
        accept(row.model_id)
        if row.state != SessionState.OPEN:
            raise SessionRefused(
                "SESSION_NOT_ACTIVE", f"session {job_id} is being settled: open another"
            )
        return row

    async def _check_terms(self, row: SessionRow) -> None:
        """Before a session is used for the first time: it must be worth this host's while."""
        objection = self.terms.objection(row, await self.contract.look_at_gas_price())
        if objection is not None:
            raise SessionRefused(
                "TERMS_REFUSED",
                f"session {row.job_id} is not served and costs nothing: {objection}",
            )

    async def _speaks_for(self, row: SessionRow, wallet: Address) -> bool:
        if wallet == row.depositor:
            return True
        return await self.contract.is_delegate(row.depositor, wallet)
