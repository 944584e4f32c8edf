"""What a claim publishes: evidence that anyone can check, and the encrypted delta."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fabstir.db.claims import ClaimRow, ClaimState
from fabstir.market.ledger import HostLedger
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.proofs.prover import ClaimedWork, Evidence
from fabstir.protocol.checkpoint import (
    CheckpointDelta,
    CheckpointEntry,
    TimedMessage,
    encode_index,
    encrypt_delta,
)
from fabstir.protocol.crypto import Crypto
from fabstir.s5.ports import Blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The identifiers that go on chain with a claim."""

    proof_cid: str
    delta_cid: str
    is_encrypted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Publishes and lists what this host claimed for."""

    blobs: Blobs
    ledger: HostLedger
    host: Address
    wallet_secret: bytes = field(repr=False)
    crypto: Crypto
    random: Callable[[int], bytes]

    async def publish(
        self,
        work: ClaimedWork,
        evidence: Evidence,
        messages: Sequence[TimedMessage],
    ) -> Published:
        """Store both blobs durably; only then may a claim name them.

        Args:
            messages: what was said since the claim before, for the key of the work's session.
        """
        session = work.session
        proof = await self.blobs.put(evidence.bundle, reason="proof")
        key = session.recovery_public_key
        delta = CheckpointDelta(
            session_id=str(session.job_id),
            checkpoint_index=work.claim_index,
            proof_hash=evidence.proof_hash,
            start_token=work.start_token,
            end_token=work.end_token,
            messages=tuple(messages) if key else (),
        ).encode(self.wallet_secret, self.crypto)
        if key:
            delta = encrypt_delta(
                delta,
                recovery_public_key=key,
                ephemeral_secret=self.random(32),
                nonce=self.random(24),
                host_secret=self.wallet_secret,
                crypto=self.crypto,
            )
        stored = await self.blobs.put(delta, reason="checkpoint")
        return Published(
            proof_cid=proof.encode(), delta_cid=stored.encode(), is_encrypted=key is not None
        )

    async def index(self, job_id: JobId) -> bytes | None:
        """The signed index of a session's claims; None if nothing was claimed."""
        claims = [c for c in await self.ledger.claims(job_id) if c.state == ClaimState.MINED]
        if not claims:
            return None
        entries = [_entry(claim) for claim in claims]
        return encode_index(job_id, self.host, entries, self.wallet_secret, self.crypto)


def _entry(claim: ClaimRow) -> CheckpointEntry:
    return CheckpointEntry(
        index=claim.claim_index,
        proof_hash=Hash32(claim.proof_hash),
        proof_cid=claim.proof_cid,
        delta_cid=claim.delta_cid,
        start_token=claim.start_token,
        end_token=claim.end_token,
        timestamp=claim.created_at,
        is_encrypted=claim.is_encrypted,
    )
