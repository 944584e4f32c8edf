"""Which results are cached, under which path, until when, and when each was last of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    LargeBinary,
    Row,
    String,
    Table,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.s5.tables.schema import s5_metadata

MAX_CACHE_PATH_CHARS = 4096

cache_entries = Table(
    "cache_entries",
    s5_metadata,
    Column("owner", String(256), primary_key=True),
    Column("path", String(MAX_CACHE_PATH_CHARS), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float, nullable=False),
    sqlite_with_rowid=False,
)
"""`digest` and `size`: of the encrypted value's blob, which `owner` pins. Times in Unix seconds."""

Index("ix_cache_entries_used", cache_entries.c.owner, cache_entries.c.used_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRow:
    """One cached result.

    Attributes:
        blob: its encrypted value.
        used_at: when it was last stored or read.
    """

    path: str
    blob: BlobId
    created_at: float
    expires_at: float
    used_at: float


def _row(row: Row[*tuple[Any, ...]]) -> CacheRow:
    return CacheRow(
        path=row.path,
        blob=BlobId(row.digest, row.size),
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
    )


def load_entry(connection: Connection, owner: str, path: str) -> CacheRow | None:
    """The entry of a path, expired or not."""
    c = cache_entries.c
    row = connection.execute(
        select(cache_entries).where(c.owner == owner, c.path == path)
    ).one_or_none()
    return None if row is None else _row(row)


def save_entry(connection: Connection, owner: str, entry: CacheRow) -> CacheRow | None:
    """Store an entry; returns the one that it replaces."""
    replaced = load_entry(connection, owner, entry.path)
    values = {
        "digest": entry.blob.digest,
        "size": entry.blob.size,
        "created_at": entry.created_at,
        "expires_at": entry.expires_at,
        "used_at": entry.used_at,
    }
    connection.execute(
        insert(cache_entries)
        .values(owner=owner, path=entry.path, **values)
        .on_conflict_do_update(index_elements=["owner", "path"], set_=values)
    )
    return replaced


def touch_entry(connection: Connection, owner: str, entry: CacheRow, now: float) -> None:
    """It was of use; an entry that was replaced meanwhile is left alone."""
    c = cache_entries.c
    connection.execute(
        update(cache_entries)
        .where(c.owner == owner, c.path == entry.path, c.digest == entry.blob.digest)
        .values(used_at=now)
    )


def delete_entry(connection: Connection, owner: str, entry: CacheRow) -> bool:
    """Forget this very entry; False: it was replaced or removed already."""
    c = cache_entries.c
    done = connection.execute(
        delete(cache_entries).where(
            c.owner == owner, c.path == entry.path, c.digest == entry.blob.digest
        )
    )
    return done.rowcount > 0


def load_entries(
    connection: Connection, owner: str, below: str, after: str, limit: int
) -> list[CacheRow]:
    """Entries in the order of their paths, a page at a time.

    Args:
        below: a path: only it and what is below it; "": all.
        after: the last path of the page before; "": the first page.
    """
    c = cache_entries.c
    conditions: list[ColumnElement[bool]] = [c.owner == owner, c.path > after]
    if below:
        # "0" is the character after "/": everything that starts with the path and a slash.
        inside = (c.path > f"{below}/") & (c.path < f"{below}0")
        conditions.append(or_(c.path == below, inside))
    query = select(cache_entries).where(*conditions).order_by(c.path).limit(limit)
    return [_row(row) for row in connection.execute(query)]


def load_expired(connection: Connection, owner: str, now: float, limit: int) -> list[CacheRow]:
    """Entries whose time is over, for the longest time first."""
    c = cache_entries.c
    query = (
        select(cache_entries)
        .where(c.owner == owner, c.expires_at <= now)
        .order_by(c.expires_at)
        .limit(limit)
    )
    return [_row(row) for row in connection.execute(query)]


def load_least_used(connection: Connection, owner: str, limit: int) -> list[CacheRow]:
    """Entries that were not of use for the longest time, the first of them first."""
    c = cache_entries.c
    query = select(cache_entries).where(c.owner == owner).order_by(c.used_at, c.path).limit(limit)
    return [_row(row) for row in connection.execute(query)]


def load_total(connection: Connection, owner: str) -> tuple[int, int]:
    """How many entries there are, and the bytes of their values."""
    c = cache_entries.c
    row = connection.execute(
        select(func.count(), func.coalesce(func.sum(c.size), 0)).where(c.owner == owner)
    ).one()
    return row[0], row[1]


def load_unused_blobs(
    connection: Connection, owner: str, pinned: Sequence[Multihash]
) -> list[Multihash]:
    """Which of these blobs no entry has."""
    c = cache_entries.c
    digests = [blob.digest for blob in pinned]
    query = select(c.digest).where(c.owner == owner, c.digest.in_(digests))
    used = set(connection.scalars(query))
    return [blob for blob in pinned if blob.digest not in used]
