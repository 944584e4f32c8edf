"""The receipts that this host signed, and what was acknowledged of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    and_,
    insert,
    select,
    update,
)

from fabstir.db.host_sessions import SessionKey
from fabstir.db.schema import Whole, Word, metadata
from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.ids import Hash32
from fabstir.primitives.units import TokenCount
from fabstir.protocol.receipts import SignedReceipt

receipts = Table(
    "receipts",
    metadata,
    Column("receipt_hash", Word(66), primary_key=True),
    Column("chain_id", Whole, nullable=False),
    Column("contract", Word(42), nullable=False),
    Column("job_id", Whole, nullable=False, index=True),
    Column("sequence", Whole, nullable=False),
    Column("cumulative_tokens", Whole, nullable=False),
    Column("receipt", Text, nullable=False),
    Column("acknowledgement", Text),
    Column("is_claimable", Boolean, nullable=False),
    Column("is_void", Boolean, nullable=False),
)
"""`is_claimable`: acknowledged, or implicitly agreed to. `is_void`: superseded; never counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRow:
    """One receipt as the journal has it.

    Attributes:
        receipt: the JSON of the signed receipt.
        acknowledgement: the JSON of the renter's; None for clients that know none.
    """

    receipt_hash: Hash32
    sequence: int
    cumulative_tokens: TokenCount
    receipt: Json
    acknowledgement: Json


def _of(key: SessionKey) -> ColumnElement[bool]:
    return and_(
        receipts.c.chain_id == key.chain_id,
        receipts.c.contract == key.contract,
        receipts.c.job_id == key.job_id,
    )


def insert_receipt(
    connection: Connection,
    key: SessionKey,
    receipt_hash: Hash32,
    signed: SignedReceipt,
    *,
    is_claimable: bool,
) -> None:
    """Journal a receipt before it is sent; it becomes claimable when it is acknowledged.

    Clients that know no acknowledgements make it claimable by having been served.
    """
    connection.execute(
        insert(receipts).values(
            receipt_hash=receipt_hash,
            chain_id=key.chain_id,
            contract=key.contract,
            job_id=key.job_id,
            sequence=signed.receipt.sequence,
            cumulative_tokens=signed.receipt.cumulative_tokens,
            receipt=canonical_json(signed.to_json()).decode(),
            is_claimable=is_claimable,
            is_void=False,
        )
    )


def acknowledge(connection: Connection, receipt_hash: Hash32, acknowledgement: Json) -> bool:
    """Store an acknowledgement; False if no receipt that still counts has this hash."""
    done = connection.execute(
        update(receipts)
        .where(receipts.c.receipt_hash == receipt_hash, receipts.c.is_void.is_(False))
        .values(acknowledgement=canonical_json(acknowledgement).decode(), is_claimable=True)
    )
    return bool(done.rowcount)


def find_receipt(connection: Connection, receipt_hash: Hash32) -> ReceiptRow | None:
    """A receipt by its hash."""
    query = select(receipts).where(receipts.c.receipt_hash == receipt_hash)
    row = connection.execute(query).mappings().first()
    return None if row is None else _row({**row})


def find_in_chain(
    connection: Connection, key: SessionKey, cumulative_tokens: TokenCount
) -> ReceiptRow | None:
    """The receipt with which a session's chain reached so many tokens: each adds one at least."""
    query = _chain(key).where(receipts.c.cumulative_tokens == cumulative_tokens)
    row = connection.execute(query).mappings().first()
    return None if row is None else _row({**row})


def is_claimable(connection: Connection, receipt_hash: Hash32) -> bool:
    """Whether what a receipt says was agreed to, and still counts."""
    query = select(receipts.c.is_claimable).where(receipts.c.receipt_hash == receipt_hash)
    return bool(connection.scalar(query))


def last_claimable(connection: Connection, key: SessionKey) -> ReceiptRow | None:
    """The head of what may be claimed: agreeing to a receipt agrees to all before it."""
    query = _chain(key).where(receipts.c.is_claimable).order_by(receipts.c.sequence.desc())
    row = connection.execute(query).mappings().first()
    return None if row is None else _row({**row})


def last_acknowledged(connection: Connection, key: SessionKey) -> ReceiptRow | None:
    """The newest receipt that the renter itself signed for; clients without receipts have none."""
    query = _chain(key).where(receipts.c.acknowledgement.is_not(None))
    row = connection.execute(query.order_by(receipts.c.sequence.desc())).mappings().first()
    return None if row is None else _row({**row})


def list_chain(connection: Connection, key: SessionKey, after: TokenCount) -> list[ReceiptRow]:
    """The chain up to its claimable head, first receipt first: what a proof bundle holds.

    Args:
        after: cumulative tokens that an earlier bundle ended with.
    """
    head = last_claimable(connection, key)
    if head is None:
        return []
    query = _chain(key).where(
        receipts.c.sequence <= head.sequence, receipts.c.cumulative_tokens > after
    )
    rows = connection.execute(query.order_by(receipts.c.sequence)).mappings()
    return [_row({**row}) for row in rows]


def void_after(connection: Connection, key: SessionKey, sequence: int) -> None:
    """Receipts after `sequence` never count: their client is gone, or was not the depositor."""
    where = and_(_of(key), receipts.c.sequence > sequence)
    connection.execute(update(receipts).where(where).values(is_claimable=False, is_void=True))


def _chain(key: SessionKey) -> Select[Any]:
    return select(receipts).where(_of(key), receipts.c.is_void.is_(False))


def _row(values: Mapping[str, Any]) -> ReceiptRow:
    acknowledgement = values["acknowledgement"]
    return ReceiptRow(
        receipt_hash=Hash32(values["receipt_hash"]),
        sequence=values["sequence"],
        cumulative_tokens=TokenCount(values["cumulative_tokens"]),
        receipt=json.loads(values["receipt"]),
        acknowledgement=None if acknowledgement is None else json.loads(acknowledgement),
    )
