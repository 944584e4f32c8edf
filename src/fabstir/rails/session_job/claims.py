"""Claims: what the renter agreed to becomes tokens on chain, each exactly once.

Prove, publish, plan, send, confirm: each step is durable before the next begins, and a claim that
is found planned after a crash is sent again under the same key, which the outbox makes one
transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fabstir.chain.contracts import SessionStatus
from fabstir.db.claims import ClaimRow, ClaimState
from fabstir.db.host_sessions import SessionRow
from fabstir.market.ledger import Balance, HostLedger
from fabstir.market.worth import HostTerms
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ChainError, TransactionReverted
from fabstir.primitives.ids import Hash32, JobId
from fabstir.primitives.units import TokenCount, cost_of
from fabstir.proofs.prover import ClaimedWork, Prover
from fabstir.protocol.host_messages import ProofMessage
from fabstir.rails.rail import LiveSessions, Said
from fabstir.rails.session_job.checkpoints import Checkpoints
from fabstir.rails.session_job.contract import SessionContract
from fabstir.rails.session_job.records import ChainRecords
from fabstir.telemetry.waiting import KeyedLocks

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimer:
    """Submits proofs of work for one host.

    Attributes:
        terms: says what is worth its gas; less is left.
        on_mined: told of each session that has a new claim on chain; must not wait or fail.
    """

    ledger: HostLedger
    prover: Prover
    checkpoints: Checkpoints
    contract: SessionContract
    records: ChainRecords
    terms: HostTerms
    live: LiveSessions
    observe: Callable[[int], None]
    on_mined: Callable[[JobId], None]
    _locks: KeyedLocks = field(default_factory=KeyedLocks)

    async def claim(self, job_id: JobId) -> TokenCount:
        """Claim all that is agreed to, if it is worth its gas; returns the tokens on chain then.

        Raises:
            ChainError: the transaction could not be sent; the plan stays and is tried again.
        """
        async with self._locks.hold(job_id):
            job = await self.contract.session(job_id)
            if job is None:
                raise ChainError(f"the chain does not know session {job_id} (any more)")
            if job.status != SessionStatus.ACTIVE:
                return job.tokens_used
            row = await self.records.row_of(job)
            await self._finish_planned(row)
            balance = await self.ledger.balance(job_id)
            if balance.claimable >= await self.min_claim(row, balance):
                claim = await self._plan(row, balance.planned)
                if claim is not None:
                    await self._send(row, claim)
                balance = await self.ledger.balance(job_id)
            elif balance.claimable:
                extra = {"job_id": job_id, "tokens": balance.claimable}
                _logger.info("remainder is not worth a claim", extra=extra)
            return balance.proven

    async def min_claim(self, row: SessionRow, balance: Balance) -> int:
        """The fewest tokens for which a claim of the session is sent now. Raises ChainError."""
        return self.terms.min_claim(row, balance.proven, await self.contract.look_at_gas_price())

    async def _finish_planned(self, row: SessionRow) -> None:
        for claim in await self.ledger.claims(row.job_id):
            if claim.state == ClaimState.PLANNED:
                await self._send(row, claim)

    async def _plan(self, row: SessionRow, start: TokenCount) -> ClaimRow | None:
        """None if the depositor evicted the signer meanwhile, whose tokens are nobody's debt."""
        receipts = await self.ledger.receipts(row.job_id, after=start)
        if not receipts:
            return None
        # Messages and the key that they are sealed to come from the same place: a session that
        # changed hands has neither of the signer before.
        said = self.live.said(row.job_id) or Said(row=row, messages=())
        work = ClaimedWork(
            session=said.row,
            claim_index=len(await self.ledger.claims(row.job_id)),
            start_token=start,
            receipts=tuple(receipts),
        )
        evidence = await self.prover.prove(work)
        published = await self.checkpoints.publish(work, evidence, said.messages)
        claim = ClaimRow(
            claim_index=work.claim_index,
            proof_hash=evidence.proof_hash,
            start_token=work.start_token,
            end_token=work.end_token,
            proof_cid=published.proof_cid,
            delta_cid=published.delta_cid,
            is_encrypted=published.is_encrypted,
            created_at=int(time.time() * 1000),
            state=ClaimState.PLANNED,
        )
        if not await self.ledger.plan_claim(row.job_id, claim, work.head.receipt_hash):
            return None
        self.live.published(row.job_id, said)
        return claim

    async def _send(self, row: SessionRow, claim: ClaimRow) -> None:
        key = f"{row.contract}:{row.job_id}:proof:{claim.claim_index}"
        try:
            tx_hash = await self.contract.submit_proof(
                key,
                row.job_id,
                claim.num_tokens,
                claim.proof_hash,
                proof_cid=claim.proof_cid,
                delta_cid=claim.delta_cid,
            )
        except TransactionReverted as error:
            await self._refused(row, claim, error)
            return
        await self.ledger.finish_claim(row.job_id, claim, ClaimState.MINED, tx_hash=tx_hash)
        self.observe(claim.num_tokens)
        self.on_mined(row.job_id)
        self._tell(row, claim)

    async def _refused(self, row: SessionRow, claim: ClaimRow, error: TransactionReverted) -> None:
        """Give a claim up if it can never go through; else it stays planned."""
        job = await self.contract.session(row.job_id)
        is_over = job is None or job.status != SessionStatus.ACTIVE
        if is_over or error.tx_hash is not None:
            tx_hash = Hash32(error.tx_hash) if error.tx_hash else None
            await self.ledger.finish_claim(
                row.job_id, claim, ClaimState.REFUSED, tx_hash=tx_hash, reason=error.reason
            )
        lost = cost_of(claim.num_tokens, row.price_per_token) if is_over else 0
        extra = {"job_id": row.job_id, "tokens": claim.num_tokens, "reason": error.reason}
        _logger.warning("claim was refused", extra={**extra, "lost": lost})

    def _tell(self, row: SessionRow, claim: ClaimRow) -> None:
        proof = ProofMessage(
            session_id=str(row.job_id),
            proof_id=claim.proof_hash,
            tokens_claimed=claim.num_tokens,
            timestamp=claim.created_at // 1000,
            size_bytes=BlobId.decode(claim.proof_cid).size,
        )
        self.live.proven(row.job_id, claim.end_token, proof)
