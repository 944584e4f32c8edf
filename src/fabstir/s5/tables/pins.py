"""Who keeps which blob and why, and what that adds up to, exact after every commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    bindparam,
    case,
    delete,
    insert,
    select,
    tuple_,
    update,
)

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import QuotaExceeded
from fabstir.s5.tables.blobs import BlobRow, blobs
from fabstir.s5.tables.schema import s5_metadata
from fabstir.s5.tables.tus import reserved

WHOLE_STORE = ""
"""The row of `owners` that counts all that is kept, pinned or not."""

CACHED = "cache"
"""Reason of pins of what may be lost: nobody keeps copies of it elsewhere for them."""

owners = Table(
    "owners",
    s5_metadata,
    Column("owner", String(256), primary_key=True),
    Column("num_blobs", BigInteger, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("max_bytes", BigInteger),
)
"""`max_bytes`: the owner's quota; None: no limit."""

pins = Table(
    "pins",
    s5_metadata,
    Column("owner", String(256), primary_key=True),
    Column("blob_id", Integer, ForeignKey("blobs.id"), primary_key=True),
    Column("reason", String(256), nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

Index("ix_pins_blob_id", pins.c.blob_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One owner keeps one blob.

    Attributes:
        blob: its BLAKE3 identifier, also where it was pinned by its SHA-256.
        reason: as it was first pinned, or said anew since.
        created_at: when the owner last stored or pinned it, in seconds of the store's clock:
            whoever releases what is no longer needed leaves alone what somebody just used again.
    """

    owner: str
    blob: BlobId
    reason: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUsage:
    """What somebody keeps.

    Attributes:
        max_bytes: the quota; None: there is none.
    """

    num_blobs: int
    num_bytes: int
    max_bytes: int | None = None


# As in `blobs`: what every put runs is made once.
_RENEW_PIN = (
    update(pins)
    .where(pins.c.owner == bindparam("of_owner"), pins.c.blob_id == bindparam("of_blob"))
    .values(created_at=bindparam("at"))
)
_RELABEL_PIN = (
    update(pins)
    .where(pins.c.owner == bindparam("of_owner"), pins.c.blob_id == bindparam("of_blob"))
    .values(reason=bindparam("why"))
)
_INSERT_PIN = insert(pins)
_COUNT_PIN = (
    update(blobs)
    .where(blobs.c.id == bindparam("of_blob"))
    .values(num_pins=blobs.c.num_pins + 1, unpinned_at=None)
)
_DELETE_PIN = delete(pins).where(
    pins.c.owner == bindparam("of_owner"), pins.c.blob_id == bindparam("of_blob")
)
_DISCOUNT_PIN = (
    update(blobs)
    .where(blobs.c.id == bindparam("of_blob"))
    .values(
        num_pins=blobs.c.num_pins - 1,
        unpinned_at=case(
            (blobs.c.num_pins == 1, bindparam("at", type_=Float())), else_=blobs.c.unpinned_at
        ),
    )
)
_ADD_USAGE = (
    update(owners)
    .where(owners.c.owner == bindparam("of_owner"))
    .values(
        num_blobs=owners.c.num_blobs + bindparam("more_blobs"),
        num_bytes=owners.c.num_bytes + bindparam("more_bytes"),
    )
    .returning(owners.c.num_blobs, owners.c.num_bytes, owners.c.max_bytes)
)


def insert_pin(connection: Connection, owner: str, row: BlobRow, reason: str, now: float) -> None:
    """Pin a blob; where the owner has it pinned already, that pin only becomes a new one.

    Raises:
        QuotaExceeded: it does not fit into the owner's quota.
    """
    renewed = connection.execute(_RENEW_PIN, {"of_owner": owner, "of_blob": row.id, "at": now})
    if renewed.rowcount:
        return
    connection.execute(_COUNT_PIN, {"of_blob": row.id})
    insert_first_pin(connection, owner, row, reason, now)


def insert_first_pin(
    connection: Connection, owner: str, row: BlobRow, reason: str, now: float
) -> None:
    """Pin a blob that this transaction inserted, with that pin counted.

    Raises:
        QuotaExceeded: as `insert_pin`.
    """
    connection.execute(
        _INSERT_PIN, {"owner": owner, "blob_id": row.id, "reason": reason, "created_at": now}
    )
    usage = add_usage(connection, owner, 1, row.size)
    if usage.max_bytes is None:
        return
    # What an unfinished upload was promised is not for anything else, or it could never end.
    _, num_reserved = reserved(connection, owner)
    if usage.num_bytes + num_reserved > usage.max_bytes:
        raise QuotaExceeded(owner, usage.max_bytes, usage.num_bytes + num_reserved)


def delete_pin(connection: Connection, owner: str, row: BlobRow, now: float) -> bool:
    """Unpin a blob. Returns whether the owner had it pinned."""
    if not connection.execute(_DELETE_PIN, {"of_owner": owner, "of_blob": row.id}).rowcount:
        return False
    connection.execute(_DISCOUNT_PIN, {"of_blob": row.id, "at": now})
    add_usage(connection, owner, -1, -row.size)
    return True


def relabel_pin(connection: Connection, owner: str, row: BlobRow, reason: str) -> None:
    """Another reason for a pin, if the owner has it."""
    connection.execute(_RELABEL_PIN, {"of_owner": owner, "of_blob": row.id, "why": reason})


def add_usage(connection: Connection, owner: str, num_blobs: int, num_bytes: int) -> StoreUsage:
    """Count more (or less) for an owner. Returns what it is now."""
    row = connection.execute(
        _ADD_USAGE, {"of_owner": owner, "more_blobs": num_blobs, "more_bytes": num_bytes}
    ).one_or_none()
    if row is not None:
        return StoreUsage(num_blobs=row[0], num_bytes=row[1], max_bytes=row[2])
    connection.execute(insert(owners).values(owner=owner, num_blobs=num_blobs, num_bytes=num_bytes))
    return StoreUsage(num_blobs=num_blobs, num_bytes=num_bytes)


def load_usage(connection: Connection, owner: str) -> StoreUsage:
    """What an owner keeps, or WHOLE_STORE."""
    row = connection.execute(
        select(owners.c.num_blobs, owners.c.num_bytes, owners.c.max_bytes).where(
            owners.c.owner == owner
        )
    ).one_or_none()
    if row is None:
        return StoreUsage(num_blobs=0, num_bytes=0)
    return StoreUsage(num_blobs=row[0], num_bytes=row[1], max_bytes=row[2])


def save_quota(connection: Connection, owner: str, max_bytes: int | None) -> None:
    """Limit an owner; None: no longer."""
    add_usage(connection, owner, 0, 0)
    connection.execute(update(owners).where(owners.c.owner == owner).values(max_bytes=max_bytes))


def load_owners(connection: Connection, after: str, limit: int) -> list[tuple[str, StoreUsage]]:
    """Owners by name, a page at a time: those behind `after`."""
    rows = connection.execute(
        select(owners.c.owner, owners.c.num_blobs, owners.c.num_bytes, owners.c.max_bytes)
        .where(owners.c.owner > after)
        .order_by(owners.c.owner)
        .limit(limit)
    )
    return [(r[0], StoreUsage(num_blobs=r[1], num_bytes=r[2], max_bytes=r[3])) for r in rows]


def load_pins(
    connection: Connection, owner: str | None, after: tuple[str, int], limit: int
) -> tuple[Sequence[Pin], tuple[str, int]]:
    """Pins by owner and age of the blob, a page at a time.

    Args:
        owner: None: everybody's.
        after: ("", 0) first, then what came back with the last page.
    """
    query = (
        select(
            pins.c.owner,
            pins.c.blob_id,
            pins.c.reason,
            pins.c.created_at,
            blobs.c.digest,
            blobs.c.size,
        )
        .join(blobs, blobs.c.id == pins.c.blob_id)
        .order_by(pins.c.owner, pins.c.blob_id)
        .limit(limit)
    )
    if owner is None:
        query = query.where(tuple_(pins.c.owner, pins.c.blob_id) > after)
    else:
        query = query.where(pins.c.owner == owner, pins.c.blob_id > after[1])
    rows = connection.execute(query).all()
    page = [Pin(owner=r[0], blob=BlobId(r[4], r[5]), reason=r[2], created_at=r[3]) for r in rows]
    return page, (rows[-1][0], rows[-1][1]) if rows else after
