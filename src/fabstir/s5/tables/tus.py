"""Resumable uploads that have begun: what is expected, and how far each is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    Row,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from fabstir.s5.tables.schema import s5_metadata

tus_uploads = Table(
    "tus_uploads",
    s5_metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(128), nullable=False, index=True),
    Column("length", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("expected", LargeBinary(33)),
    Column("metadata", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("blob", LargeBinary(43)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TusRow:
    """One upload.

    Attributes:
        owner: whose quota it counts against.
        length: bytes that the whole has.
        offset: bytes that are on disk; what the file holds beyond is not acknowledged.
        expected: the multihash, 33 bytes, that the client said it would have.
        metadata: the Upload-Metadata header, word for word.
        expires_at: Unix time in seconds.
        blob: the blob identifier, once the store has it.
    """

    id: str
    owner: str
    length: int
    offset: int
    expected: bytes | None
    metadata: str
    expires_at: int
    blob: bytes | None


def _upload(row: Row[*tuple[Any, ...]]) -> TusRow:
    return TusRow(
        id=row.id,
        owner=row.owner,
        length=row.length,
        offset=row.offset,
        expected=row.expected,
        metadata=row.metadata,
        expires_at=row.expires_at,
        blob=row.blob,
    )


def insert_upload(connection: Connection, upload: TusRow) -> None:
    """Begin one."""
    connection.execute(
        insert(tus_uploads).values(
            id=upload.id,
            owner=upload.owner,
            length=upload.length,
            offset=upload.offset,
            expected=upload.expected,
            metadata=upload.metadata,
            expires_at=upload.expires_at,
            blob=upload.blob,
        )
    )


def find_upload(connection: Connection, upload_id: str) -> TusRow | None:
    """The upload of this id."""
    row = connection.execute(select(tus_uploads).where(tus_uploads.c.id == upload_id)).first()
    return None if row is None else _upload(row)


def list_uploads(connection: Connection) -> list[TusRow]:
    """All of them."""
    return [_upload(row) for row in connection.execute(select(tus_uploads))]


def advance_upload(connection: Connection, upload_id: str, *, offset: int, expires_at: int) -> None:
    """Acknowledge the bytes up to `offset`."""
    connection.execute(
        update(tus_uploads)
        .where(tus_uploads.c.id == upload_id)
        .values(offset=offset, expires_at=expires_at)
    )


def finish_upload(connection: Connection, upload_id: str, *, blob: bytes, expires_at: int) -> None:
    """The store has it; the row stays until it expires, for clients that missed the answer."""
    connection.execute(
        update(tus_uploads)
        .where(tus_uploads.c.id == upload_id)
        .values(blob=blob, expires_at=expires_at)
    )


def delete_upload(connection: Connection, upload_id: str) -> None:
    """Forget it."""
    connection.execute(delete(tus_uploads).where(tus_uploads.c.id == upload_id))


def list_expired(connection: Connection, now: int, *, limit: int) -> list[TusRow]:
    """Uploads whose time is over."""
    rows = connection.execute(
        select(tus_uploads).where(tus_uploads.c.expires_at <= now).limit(limit)
    )
    return [_upload(row) for row in rows]


def reserved(connection: Connection, owner: str | None = None) -> tuple[int, int]:
    """How many unfinished uploads an owner (None: everybody) has, and the bytes they will have."""
    query = select(func.count(), func.coalesce(func.sum(tus_uploads.c.length), 0)).where(
        tus_uploads.c.blob.is_(None)
    )
    if owner is not None:
        query = query.where(tus_uploads.c.owner == owner)
    row = connection.execute(query).one()
    return row[0], row[1]
