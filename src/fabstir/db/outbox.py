"""Transactions of ours, each stored with its signed bytes before it is broadcast.

A row is one intention (`key`) with one nonce; its versions are the signed transactions that were
made for it: the first, the ones with higher fees, and perhaps a filler, which does nothing but
use the nonce when the node refuses the intention itself. At most one version is ever mined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Row,
    Select,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    select,
    text,
    update,
)

from fabstir.db.schema import PeerText, Uint256, Whole, Word, metadata
from fabstir.db.signed import SignedVersion
from fabstir.primitives.ids import Address, ChainId, Hash32
from fabstir.primitives.units import Wei


class TransactionStatus(StrEnum):
    """Where an intention stands, and what is done with it after a restart."""

    PENDING = "pending"
    """Signed, perhaps broadcast: the newest version is sent again until one is mined."""
    CANCELLING = "cancelling"
    """The node refused it and a filler took over its nonce: the filler is sent until mined."""
    MINED = "mined"
    """Done. Looked at again until its block is final."""
    REVERTED = "reverted"
    """Mined, and the contract refused. Looked at again until its block is final."""
    CANCELLED = "cancelled"
    """The filler was mined: the intention never happened, and its key is free again."""


transactions = Table(
    "transactions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("chain_id", Whole, nullable=False),
    Column("account", Word(42), nullable=False),
    Column("key", Text, nullable=False),
    Column("nonce", Whole, nullable=False),
    Column("description", PeerText, nullable=False),
    Column("to", Word(42), comment="null: creates a contract"),
    Column("value", Uint256, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("gas_limit", Whole, nullable=False),
    Column("status", Word(10), nullable=False),
    Column("refusal", PeerText, comment="why the node refused it"),
    Column("tx_hash", Word(66), comment="the version that was mined"),
    Column("block_number", Whole),
    Column("block_hash", Word(66)),
    Column("gas_used", Whole),
    Column("effective_gas_price", Whole),
    Column("is_final", Boolean, nullable=False),
    UniqueConstraint("chain_id", "account", "nonce"),
)

Index(
    "uq_transactions_key",
    transactions.c.chain_id,
    transactions.c.account,
    transactions.c.key,
    unique=True,
    sqlite_where=text("status != 'cancelled'"),
    postgresql_where=text("status != 'cancelled'"),
)

Index(
    "ix_transactions_unfinished",
    transactions.c.chain_id,
    transactions.c.account,
    sqlite_where=text("is_final = 0"),
    postgresql_where=text("is_final IS false"),
)

signed_versions = Table(
    "signed_versions",
    metadata,
    Column("tx_hash", Word(66), primary_key=True),
    Column("transaction_id", Integer, ForeignKey("transactions.id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("nonce", Whole, nullable=False),
    Column("max_fee_per_gas", Whole, nullable=False),
    Column("max_priority_fee_per_gas", Whole, nullable=False),
    Column("is_filler", Boolean, nullable=False),
    UniqueConstraint("transaction_id", "number"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intention:
    """What is to happen, before it has a row."""

    chain_id: ChainId
    account: Address
    key: str
    nonce: int
    description: str
    to: Address | None
    value: Wei
    data: bytes
    gas_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionOutcome:
    """What the receipt of the mined version says."""

    status: TransactionStatus
    tx_hash: Hash32
    block_number: int
    block_hash: Hash32
    gas_used: int
    effective_gas_price: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow(Intention):
    """An intention with everything that is known of it."""

    id: int
    status: TransactionStatus
    refusal: str | None
    outcome: TransactionOutcome | None
    """None until a version is mined."""
    is_final: bool
    versions: tuple[SignedVersion, ...]
    """Oldest first; never empty."""


def insert_transaction(
    connection: Connection, intention: Intention, version: SignedVersion
) -> OutboxRow:
    """Store an intention with its first signed version."""
    statement = insert(transactions).values(
        chain_id=intention.chain_id,
        account=intention.account,
        key=intention.key,
        nonce=intention.nonce,
        description=intention.description,
        to=intention.to,
        value=intention.value,
        data=intention.data,
        gas_limit=intention.gas_limit,
        status=TransactionStatus.PENDING,
        is_final=False,
    )
    row_id: int = connection.execute(statement.returning(transactions.c.id)).scalar_one()
    _insert_version(connection, row_id, 0, version)
    return get_transaction(connection, row_id)


def add_version(connection: Connection, row: OutboxRow, version: SignedVersion) -> OutboxRow:
    """Store a replacement before it is broadcast; the row moves to the replacement's nonce."""
    _insert_version(connection, row.id, len(row.versions), version)
    return _update(connection, row.id, nonce=version.nonce)


def add_filler(
    connection: Connection, row: OutboxRow, version: SignedVersion, refusal: str
) -> OutboxRow:
    """Give the intention up: from now on only the filler is broadcast."""
    _insert_version(connection, row.id, len(row.versions), version)
    return _update(connection, row.id, status=TransactionStatus.CANCELLING, refusal=refusal)


def record_outcome(
    connection: Connection, row_id: int, outcome: TransactionOutcome, refusal: str | None
) -> OutboxRow:
    """A version was mined; `refusal` is the contract's reason, or why the filler was needed."""
    return _update(
        connection,
        row_id,
        status=outcome.status,
        refusal=refusal,
        tx_hash=outcome.tx_hash,
        block_number=outcome.block_number,
        block_hash=outcome.block_hash,
        gas_used=outcome.gas_used,
        effective_gas_price=outcome.effective_gas_price,
    )


def cancel_without_filler(connection: Connection, row: OutboxRow, refusal: str) -> OutboxRow:
    """Give the intention up when another program's transaction has used its nonce already."""
    return _update(
        connection, row.id, status=TransactionStatus.CANCELLED, refusal=refusal, is_final=True
    )


def reopen(connection: Connection, row: OutboxRow) -> OutboxRow:
    """A reorg took the mined version out of the chain: it is to be broadcast again."""
    was_filler = row.status is TransactionStatus.CANCELLED
    status = TransactionStatus.CANCELLING if was_filler else TransactionStatus.PENDING
    return _update(
        connection,
        row.id,
        status=status,
        tx_hash=None,
        block_number=None,
        block_hash=None,
        gas_used=None,
        effective_gas_price=None,
    )


def mark_final(connection: Connection, row_ids: Sequence[int]) -> None:
    """No reorg can reach these any more; they are not looked at again."""
    connection.execute(
        update(transactions).where(transactions.c.id.in_(row_ids)).values(is_final=True)
    )


def get_transaction(connection: Connection, row_id: int) -> OutboxRow:
    """One row with its versions."""
    return _load(connection, select(transactions).where(transactions.c.id == row_id))[0]


def find_transaction(
    connection: Connection, chain_id: ChainId, account: Address, key: str
) -> OutboxRow | None:
    """The row that holds `key`, unless it was cancelled."""
    rows = _load(
        connection,
        select(transactions).where(
            transactions.c.chain_id == chain_id,
            transactions.c.account == account,
            transactions.c.key == key,
            transactions.c.status != TransactionStatus.CANCELLED,
        ),
    )
    return rows[0] if rows else None


def unfinished_transactions(
    connection: Connection, chain_id: ChainId, account: Address
) -> list[OutboxRow]:
    """Everything that is not final, in the order of its nonces."""
    return _load(
        connection,
        select(transactions)
        .where(
            transactions.c.chain_id == chain_id,
            transactions.c.account == account,
            transactions.c.is_final.is_(False),
        )
        .order_by(transactions.c.nonce),
    )


def next_nonce(connection: Connection, chain_id: ChainId, account: Address) -> int:
    """One above the highest nonce that any version here was signed with; 0 if there is none."""
    highest = connection.scalar(
        select(func.max(signed_versions.c.nonce))
        .join(transactions)
        .where(transactions.c.chain_id == chain_id, transactions.c.account == account)
    )
    return 0 if highest is None else highest + 1


def _insert_version(
    connection: Connection, row_id: int, number: int, version: SignedVersion
) -> None:
    connection.execute(
        insert(signed_versions).values(
            tx_hash=version.tx_hash,
            transaction_id=row_id,
            number=number,
            raw=version.raw,
            nonce=version.nonce,
            max_fee_per_gas=version.max_fee_per_gas,
            max_priority_fee_per_gas=version.max_priority_fee_per_gas,
            is_filler=version.is_filler,
        )
    )


def _update(connection: Connection, row_id: int, **values: Any) -> OutboxRow:
    connection.execute(update(transactions).where(transactions.c.id == row_id).values(**values))
    return get_transaction(connection, row_id)


def _load(connection: Connection, statement: Select[Any]) -> list[OutboxRow]:
    rows = connection.execute(statement).all()
    versions: dict[int, list[SignedVersion]] = {row.id: [] for row in rows}
    found = connection.execute(
        select(signed_versions)
        .where(signed_versions.c.transaction_id.in_(versions))
        .order_by(signed_versions.c.transaction_id, signed_versions.c.number)
    )
    for version in found:
        versions[version.transaction_id].append(_parse_version(version))
    return [_parse_row(row, tuple(versions[row.id])) for row in rows]


def _parse_version(row: Row[Any]) -> SignedVersion:
    return SignedVersion(
        tx_hash=row.tx_hash,
        raw=row.raw,
        nonce=row.nonce,
        max_fee_per_gas=row.max_fee_per_gas,
        max_priority_fee_per_gas=row.max_priority_fee_per_gas,
        is_filler=row.is_filler,
    )


def _parse_row(row: Row[Any], versions: tuple[SignedVersion, ...]) -> OutboxRow:
    status = TransactionStatus(row.status)
    outcome = None
    if row.tx_hash is not None:
        outcome = TransactionOutcome(
            status=status,
            tx_hash=row.tx_hash,
            block_number=row.block_number,
            block_hash=row.block_hash,
            gas_used=row.gas_used,
            effective_gas_price=row.effective_gas_price,
        )
    return OutboxRow(
        id=row.id,
        chain_id=row.chain_id,
        account=row.account,
        key=row.key,
        nonce=row.nonce,
        description=row.description,
        to=row.to,
        value=row.value,
        data=row.data,
        gas_limit=row.gas_limit,
        status=status,
        refusal=row.refusal,
        outcome=outcome,
        is_final=row.is_final,
        versions=versions,
    )
