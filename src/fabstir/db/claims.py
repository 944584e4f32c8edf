"""What this host claimed on chain: planned before it is sent, so that nothing is claimed twice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Table,
    and_,
    insert,
    select,
    update,
)

from fabstir.db.host_sessions import SessionKey
from fabstir.db.schema import PeerText, Whole, Word, metadata
from fabstir.primitives.ids import Hash32
from fabstir.primitives.units import TokenCount


class ClaimState(StrEnum):
    """planned: may or may not be on chain yet. mined: it is. refused: the contract said no."""

    PLANNED = "planned"
    MINED = "mined"
    REFUSED = "refused"


claims = Table(
    "claims",
    metadata,
    Column("chain_id", Whole, primary_key=True, autoincrement=False),
    Column("contract", Word(42), primary_key=True),
    Column("job_id", Whole, primary_key=True, autoincrement=False),
    Column("claim_index", Integer, primary_key=True, autoincrement=False),
    Column("proof_hash", Word(66), nullable=False),
    Column("start_token", Whole, nullable=False),
    Column("end_token", Whole, nullable=False),
    Column("proof_cid", Word(80), nullable=False),
    Column("delta_cid", Word(80), nullable=False),
    Column("is_encrypted", Boolean, nullable=False),
    Column("created_at", Whole, nullable=False),
    Column("state", Word(16), nullable=False),
    Column("tx_hash", Word(66)),
    Column("reason", PeerText),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRow:
    """One claim.

    Attributes:
        claim_index: from 0, per session.
        start_token, end_token: cumulative tokens before and after; the claim is the difference.
        created_at: Unix time in milliseconds.
    """

    claim_index: int
    proof_hash: Hash32
    start_token: TokenCount
    end_token: TokenCount
    proof_cid: str
    delta_cid: str
    is_encrypted: bool
    created_at: int
    state: ClaimState
    tx_hash: Hash32 | None = None
    reason: str | None = None

    @property
    def num_tokens(self) -> TokenCount:
        """What is claimed."""
        return TokenCount(self.end_token - self.start_token)


def _of(key: SessionKey) -> ColumnElement[bool]:
    return and_(
        claims.c.chain_id == key.chain_id,
        claims.c.contract == key.contract,
        claims.c.job_id == key.job_id,
    )


def list_claims(connection: Connection, key: SessionKey) -> list[ClaimRow]:
    """A session's claims, first one first."""
    rows = connection.execute(select(claims).where(_of(key)).order_by(claims.c.claim_index))
    return [
        ClaimRow(
            claim_index=row.claim_index,
            proof_hash=Hash32(row.proof_hash),
            start_token=TokenCount(row.start_token),
            end_token=TokenCount(row.end_token),
            proof_cid=row.proof_cid,
            delta_cid=row.delta_cid,
            is_encrypted=row.is_encrypted,
            created_at=row.created_at,
            state=ClaimState(row.state),
            tx_hash=row.tx_hash,
            reason=row.reason,
        )
        for row in rows
    ]


def insert_claim(connection: Connection, key: SessionKey, claim: ClaimRow) -> None:
    """Plan a claim."""
    connection.execute(
        insert(claims).values(
            chain_id=key.chain_id,
            contract=key.contract,
            job_id=key.job_id,
            claim_index=claim.claim_index,
            proof_hash=claim.proof_hash,
            start_token=claim.start_token,
            end_token=claim.end_token,
            proof_cid=claim.proof_cid,
            delta_cid=claim.delta_cid,
            is_encrypted=claim.is_encrypted,
            created_at=claim.created_at,
            state=claim.state,
        )
    )


def void_claims(connection: Connection, key: SessionKey, reason: str) -> None:
    """None of a session's claims counts: they were for another session of the same number."""
    values = {"state": ClaimState.REFUSED, "reason": reason}
    connection.execute(update(claims).where(_of(key)).values(values))


def finish_claim(
    connection: Connection,
    key: SessionKey,
    claim_index: int,
    state: ClaimState,
    *,
    tx_hash: Hash32 | None = None,
    reason: str | None = None,
) -> None:
    """Write down how a claim ended."""
    where = and_(_of(key), claims.c.claim_index == claim_index)
    values = {"state": state, "tx_hash": tx_hash, "reason": reason}
    connection.execute(update(claims).where(where).values(values))
