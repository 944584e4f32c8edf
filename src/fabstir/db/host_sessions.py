"""The sessions that this host serves, and the handshakes it has seen."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    LargeBinary,
    Table,
    and_,
    delete,
    exists,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from fabstir.db.schema import PeerText, Uint256, Whole, Word, metadata
from fabstir.primitives.ids import Address, ChainId, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei


class SessionState(StrEnum):
    """What is still to be done for a session.

    open: it may be served. closing: its renter is done or gone; prove, then settle.
    settled: nothing is locked any more.
    """

    OPEN = "open"
    CLOSING = "closing"
    SETTLED = "settled"


host_sessions = Table(
    "host_sessions",
    metadata,
    Column("chain_id", Whole, primary_key=True, autoincrement=False),
    Column("contract", Word(42), primary_key=True),
    Column("job_id", Whole, primary_key=True, autoincrement=False),
    Column("depositor", Word(42), nullable=False),
    Column("payment_token", Word(42), nullable=False),
    Column("deposit", Uint256, nullable=False),
    Column("price_per_token", Uint256, nullable=False),
    Column("model_id", Word(66), nullable=False),
    Column("proof_interval", Whole, nullable=False),
    Column("proof_window", Whole, nullable=False),
    Column("started_at", Whole, nullable=False),
    Column("max_duration", Whole, nullable=False),
    Column("state", Word(16), nullable=False),
    Column("signer", Word(42)),
    Column("is_proven", Boolean, nullable=False),
    Column("recovery_public_key", LargeBinary),
    Column("tokens_reserved", Whole, nullable=False),
    Column("tokens_written_off", Whole, nullable=False),
    Column("last_seen_at", Float, nullable=False),
    Column("tokens_settled", Whole),
    Column("host_paid", Uint256),
    Column("refund", Uint256),
    Column("outcome", PeerText),
)

session_inits = Table(
    "session_inits",
    metadata,
    Column("ephemeral_public_key", LargeBinary(33), primary_key=True),
    Column("job_id", Whole, nullable=False),
)


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Names a session in the whole world: a job of one contract on one chain."""

    chain_id: ChainId
    contract: Address
    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTerms:
    """What the chain fixes of a session for good. Amounts in the token's smallest unit, times in
    Unix time and seconds."""

    depositor: Address
    payment_token: Address
    deposit: Wei
    price_per_token: PricePerToken
    model_id: ModelId
    proof_interval: TokenCount
    proof_window: int
    started_at: int
    max_duration: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow(SessionTerms):
    """One session as the journal has it.

    Attributes:
        signer: the key that speaks for the renter; acknowledgements are checked against it.
        is_proven: that key was shown to be the depositor's; otherwise it is only pinned.
        tokens_reserved: no more than this many tokens can have been delivered, ever.
        tokens_written_off: delivered at most, and never claimed.
        last_seen_at: Unix time of the last authenticated socket, or of the session's start.
        outcome: why it ended, in words.
    """

    chain_id: ChainId
    contract: Address
    job_id: JobId
    state: SessionState
    signer: Address | None
    is_proven: bool
    recovery_public_key: bytes | None
    tokens_reserved: TokenCount
    tokens_written_off: TokenCount
    last_seen_at: float
    tokens_settled: TokenCount | None = None
    host_paid: Wei | None = None
    refund: Wei | None = None
    outcome: str | None = None

    @property
    def key(self) -> SessionKey:
        """The row's primary key."""
        return SessionKey(self.chain_id, self.contract, self.job_id)

    def is_same_session(self, other: SessionTerms) -> bool:
        """Whether nothing differs that can never change. The chain has the last word on it: where
        it says otherwise, a reorg has given the job's number to another session."""
        return all(getattr(self, name) == getattr(other, name) for name in _TERMS)

    def yields_to(self, signer: Address, *, is_proven: bool) -> bool:
        """Whether `signer` may speak for the renter from now on.

        The depositor always may. Whoever cannot show that it speaks for it may only where nobody
        has yet, or where it is itself the one that could not show it either: proof never goes down.
        """
        return is_proven or self.signer is None or (self.signer == signer and not self.is_proven)


_NAMES = tuple(field.name for field in fields(SessionRow))
_TERMS = tuple(field.name for field in fields(SessionTerms))


def _where(key: SessionKey) -> ColumnElement[bool]:
    return and_(
        host_sessions.c.chain_id == key.chain_id,
        host_sessions.c.contract == key.contract,
        host_sessions.c.job_id == key.job_id,
    )


def load_session(connection: Connection, key: SessionKey) -> SessionRow | None:
    """The session, or None if this host never saw it."""
    row = connection.execute(select(host_sessions).where(_where(key))).mappings().first()
    return None if row is None else _row({**row})


def list_sessions(
    connection: Connection, chain_id: ChainId, contract: Address, *, unsettled_only: bool
) -> list[SessionRow]:
    """This host's sessions, oldest first."""
    query = (
        select(host_sessions)
        .where(host_sessions.c.chain_id == chain_id, host_sessions.c.contract == contract)
        .order_by(host_sessions.c.job_id)
    )
    if unsettled_only:
        query = query.where(host_sessions.c.state != SessionState.SETTLED)
    return [_row({**row}) for row in connection.execute(query).mappings()]


def _row(values: dict[str, Any]) -> SessionRow:
    values["state"] = SessionState(values["state"])
    return SessionRow(**values)


def insert_session(connection: Connection, row: SessionRow) -> None:
    """Remember a session that is new here."""
    connection.execute(insert(host_sessions).values(_values(row)))


def replace_session(connection: Connection, row: SessionRow) -> None:
    """Begin a known session anew, with nothing of what the journal had of it."""
    connection.execute(update(host_sessions).where(_where(row.key)).values(_values(row)))


def _values(row: SessionRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in _NAMES}


def update_session(connection: Connection, key: SessionKey, **values: object) -> None:
    """Change columns of a session; the names are those of SessionRow."""
    connection.execute(update(host_sessions).where(_where(key)).values(values))


def reserve_tokens(connection: Connection, key: SessionKey, up_to: TokenCount) -> None:
    """Journal that up to `up_to` tokens may be delivered, before any of them is."""
    where = and_(_where(key), host_sessions.c.tokens_reserved < up_to)
    connection.execute(update(host_sessions).where(where).values(tokens_reserved=up_to))


def use_ephemeral_key(connection: Connection, ephemeral_public_key: bytes, job_id: JobId) -> bool:
    """Whether this handshake is new; an ephemeral key counts once, also across restarts."""
    values = {"ephemeral_public_key": ephemeral_public_key, "job_id": job_id}
    try:
        # In a savepoint: an error spoils the rest of a transaction on PostgreSQL.
        with connection.begin_nested():
            connection.execute(insert(session_inits).values(values))
    except IntegrityError:
        return False
    return True


def forget_ephemeral_keys(connection: Connection, job_id: JobId) -> None:
    """No handshake opens the session any more, so none can be replayed.

    They are kept while a session of the same number, of another contract, is not over.
    """
    unsettled = exists().where(
        host_sessions.c.job_id == job_id, host_sessions.c.state != SessionState.SETTLED
    )
    connection.execute(delete(session_inits).where(session_inits.c.job_id == job_id, ~unsettled))
