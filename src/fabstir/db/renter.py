"""The sessions that this renter pays for, with the keys that speak for them, and what it agreed to.

A file is readable by its owner only, and a server by who may read its schema, which is why session
keys may stand here: they can spend one session's deposit at one host, nothing else, and without
them a crashed renter could neither go on nor read its checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    select,
    update,
)

from fabstir.db.schema import PeerText, Uint256, Whole, Word, metadata
from fabstir.primitives.encoding import canonical_json
from fabstir.primitives.ids import Address, ChainId, Hash32, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.protocol.receipts import SignedAcknowledgement, SignedReceipt


class RenterState(StrEnum):
    """What is still to be done for a session, and what is done when it is found so at start."""

    OPENING = "opening"
    """The deposit may or may not be on its way: its transaction decides."""
    OPEN = "open"
    """It may be used; if nobody does, it is closed."""
    CLOSING = "closing"
    """The renter is done: the host settles, or we do."""
    SETTLED = "settled"
    """The chain has settled it; a refund that could not be paid out may wait to be withdrawn."""
    FAILED = "failed"
    """The deposit never happened."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of the session is locked any more."""
        return self in {RenterState.SETTLED, RenterState.FAILED}


renter_sessions = Table(
    "renter_sessions",
    metadata,
    Column("id", Word(36), primary_key=True),
    Column("chain_id", Whole, nullable=False),
    Column("contract", Word(42), nullable=False),
    Column("depositor", Word(42), nullable=False),
    Column("host", Word(42), nullable=False),
    Column("host_public_key", LargeBinary(33), nullable=False),
    Column("api_url", PeerText, nullable=False),
    Column("model_id", Word(66), nullable=False),
    Column("model_name", PeerText, nullable=False),
    Column("model_digest", Word(66), nullable=False),
    Column("payment_token", Word(42), nullable=False),
    Column("deposit", Uint256, nullable=False),
    Column("price_per_token", Uint256, nullable=False),
    Column("proof_interval", Whole, nullable=False),
    Column("proof_window", Whole, nullable=False),
    Column("max_duration", Whole, nullable=False),
    Column("session_secret", LargeBinary(32), nullable=False),
    Column("recovery_secret", LargeBinary(32), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_used_at", Float, nullable=False),
    Column("state", Word(16), nullable=False),
    Column("job_id", Whole),
    Column("opened_block", Whole),
    Column("tokens_settled", Whole),
    Column("host_paid", Uint256),
    Column("refund", Uint256),
    Column("refund_credited", Uint256),
    Column("outcome", PeerText),
    UniqueConstraint("chain_id", "contract", "job_id"),
)

renter_receipts = Table(
    "renter_receipts",
    metadata,
    Column("session", Word(36), ForeignKey("renter_sessions.id"), primary_key=True),
    Column("sequence", Whole, primary_key=True, autoincrement=False),
    Column("cumulative_tokens", Whole, nullable=False),
    Column("receipt", Text, nullable=False),
    Column("acknowledgement", Text, nullable=False),
)
"""Every receipt that was verified, with the acknowledgement that was sent for it afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenterSession:
    """One session as the renter's journal has it.

    Attributes:
        id: ours, made before the chain gives the session a number; names the deposit's transaction.
        model_digest: the registry's sha256 of the model file.
        session_secret: the key that signs handshakes and acknowledgements.
        recovery_secret: the key to which the host encrypts checkpoints.
        last_used_at: Unix time of the last acknowledgement or connection.
        opened_block: the deposit's block, from where the session's events are looked for.
        refund_credited: a part of `refund` that lies in the contract and is to be withdrawn.
        outcome: why it ended, in words.
    """

    id: str
    chain_id: ChainId
    contract: Address
    depositor: Address
    host: Address
    host_public_key: bytes
    api_url: str
    model_id: ModelId
    model_name: str
    model_digest: Hash32
    payment_token: Address
    deposit: Wei
    price_per_token: PricePerToken
    proof_interval: TokenCount
    proof_window: int
    max_duration: int
    session_secret: bytes = field(repr=False)
    recovery_secret: bytes = field(repr=False)
    created_at: float
    last_used_at: float
    state: RenterState = RenterState.OPENING
    job_id: JobId | None = None
    opened_block: int | None = None
    tokens_settled: TokenCount | None = None
    host_paid: Wei | None = None
    refund: Wei | None = None
    refund_credited: Wei | None = None
    outcome: str | None = None


_NAMES = tuple(item.name for item in fields(RenterSession))
_LOCKED = (RenterState.OPENING, RenterState.OPEN, RenterState.CLOSING)


def insert_session(connection: Connection, session: RenterSession) -> None:
    """Remember a session before its deposit is sent."""
    connection.execute(
        insert(renter_sessions).values({name: getattr(session, name) for name in _NAMES})
    )


def update_session(connection: Connection, session_id: str, **values: object) -> None:
    """Change columns of a session; the names are those of RenterSession."""
    where = renter_sessions.c.id == session_id
    connection.execute(update(renter_sessions).where(where).values(values))


def load_session(connection: Connection, session_id: str) -> RenterSession | None:
    """A session by our own id."""
    return _first(connection, renter_sessions.c.id == session_id)


def list_sessions(
    connection: Connection, chain_id: ChainId, contract: Address, *, unfinished_only: bool = False
) -> list[RenterSession]:
    """The sessions of one marketplace, oldest first.

    Args:
        unfinished_only: those that lock money, or whose credited refund waits for us.
    """
    query = (
        select(renter_sessions)
        .where(renter_sessions.c.chain_id == chain_id, renter_sessions.c.contract == contract)
        .order_by(renter_sessions.c.created_at)
    )
    rows = [_session(row) for row in connection.execute(query).mappings()]
    return [row for row in rows if not unfinished_only or row.state in _LOCKED or _is_owed(row)]


def locked_deposits(
    connection: Connection, chain_id: ChainId, contract: Address, payment_token: Address
) -> Wei:
    """What all sessions that are not settled have locked of one payment token."""
    rows = list_sessions(connection, chain_id, contract, unfinished_only=True)
    return Wei(sum(r.deposit for r in rows if r.payment_token == payment_token and not _is_owed(r)))


def insert_receipt(
    connection: Connection,
    session_id: str,
    receipt: SignedReceipt,
    acknowledgement: SignedAcknowledgement,
    now: float,
) -> None:
    """Journal a verified receipt and its acknowledgement, before the acknowledgement is sent."""
    connection.execute(
        insert(renter_receipts).values(
            session=session_id,
            sequence=receipt.receipt.sequence,
            cumulative_tokens=receipt.receipt.cumulative_tokens,
            receipt=canonical_json(receipt.to_json()).decode(),
            acknowledgement=acknowledgement.encode().decode(),
        )
    )
    update_session(connection, session_id, last_used_at=now)


def last_acknowledgement(connection: Connection, session_id: str) -> SignedAcknowledgement | None:
    """The head of the session's chain of receipts, as far as the renter agreed to it."""
    query = (
        select(renter_receipts.c.acknowledgement)
        .where(renter_receipts.c.session == session_id)
        .order_by(renter_receipts.c.sequence.desc())
        .limit(1)
    )
    text: str | None = connection.scalar(query)
    return None if text is None else SignedAcknowledgement.decode(text.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOutcome:
    """How one settled session ended."""

    host: Address
    tokens_agreed: TokenCount
    tokens_settled: TokenCount
    outcome: str


def list_outcomes(
    connection: Connection, chain_id: ChainId, contract: Address, depositor: Address
) -> list[SessionOutcome]:
    """Every session of one wallet that the chain has settled."""
    sessions, receipts = renter_sessions.c, renter_receipts.c
    query = (
        select(
            sessions.host,
            func.max(receipts.cumulative_tokens),
            sessions.tokens_settled,
            sessions.outcome,
        )
        .outerjoin_from(renter_sessions, renter_receipts, receipts.session == sessions.id)
        .where(
            sessions.chain_id == chain_id,
            sessions.contract == contract,
            sessions.depositor == depositor,
            sessions.state == RenterState.SETTLED,
        )
        .group_by(sessions.id)
    )
    return [
        SessionOutcome(
            host=Address(host),
            tokens_agreed=TokenCount(agreed or 0),
            tokens_settled=TokenCount(settled or 0),
            outcome=outcome or "",
        )
        for host, agreed, settled, outcome in connection.execute(query)
    ]


def _is_owed(row: RenterSession) -> bool:
    return row.state is RenterState.SETTLED and bool(row.refund_credited)


def _first(connection: Connection, where: ColumnElement[bool]) -> RenterSession | None:
    row = connection.execute(select(renter_sessions).where(where)).mappings().first()
    return None if row is None else _session(row)


def _session(row: Mapping[Any, Any]) -> RenterSession:
    values = {name: row[name] for name in _NAMES}
    values["state"] = RenterState(values["state"])
    return RenterSession(**values)
