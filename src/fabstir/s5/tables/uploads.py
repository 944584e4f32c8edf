"""The upload queue: which blob goes to which portal, and its progress."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    Text,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from fabstir.primitives.cid import BlobId
from fabstir.s5.tables.schema import MAX_PLACE_CHARS, s5_metadata


class UploadState(StrEnum):
    """waiting: for its time; uploading: right now; what a kill left so waits again."""

    WAITING = "waiting"
    UPLOADING = "uploading"


uploads = Table(
    "uploads",
    s5_metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("portal", String(MAX_PLACE_CHARS), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("next_attempt_at", Float, nullable=False),
    Column("location", Text),
    Column("last_error", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""Times are Unix seconds. `location`: where the portal lets this upload be resumed."""

Index("ix_uploads_due", uploads.c.portal, uploads.c.state, uploads.c.next_attempt_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRow:
    """One blob that is to be stored at one portal.

    Attributes:
        portal: its URL.
        attempts: that failed.
        next_attempt_at: Unix seconds.
        location: of a resumable upload that has begun.
        last_error: "" if nothing has failed yet.
    """

    blob: BlobId
    portal: str
    state: UploadState
    attempts: int
    created_at: float
    next_attempt_at: float
    location: str | None
    last_error: str


def insert_upload(connection: Connection, blob: BlobId, portal: str, now: float) -> None:
    """Queue an upload; one that waits already is due at once."""
    connection.execute(
        insert(uploads)
        .values(
            digest=blob.digest,
            portal=portal,
            size=blob.size,
            state=UploadState.WAITING,
            attempts=0,
            created_at=now,
            next_attempt_at=now,
            last_error="",
        )
        .on_conflict_do_update(
            index_elements=[uploads.c.digest, uploads.c.portal],
            set_={"next_attempt_at": now},
        )
    )


def claim_upload(
    connection: Connection, portal: str, now: float, max_delay: float
) -> UploadRow | None:
    """The upload of a portal that has been due for longest, from now on being uploaded.

    Args:
        max_delay: the longest delay that is ever given: what is due later than that was written
            before the clock was set back, and is due now.
    """
    row = connection.execute(
        select(uploads)
        .where(
            uploads.c.portal == portal,
            uploads.c.state == UploadState.WAITING,
            or_(
                uploads.c.next_attempt_at <= now,
                uploads.c.next_attempt_at > now + max_delay,
            ),
        )
        .order_by(uploads.c.next_attempt_at)
        .limit(1)
    ).first()
    if row is None:
        return None
    upload = _parse(row)
    _update(connection, upload, state=UploadState.UPLOADING)
    return upload


def next_due(connection: Connection, portal: str) -> float | None:
    """When the next waiting upload of a portal is due; None: none waits."""
    return connection.scalar(
        select(func.min(uploads.c.next_attempt_at)).where(
            uploads.c.portal == portal, uploads.c.state == UploadState.WAITING
        )
    )


def save_location(connection: Connection, upload: UploadRow, location: str | None) -> None:
    """Remember where an upload can be resumed."""
    _update(connection, upload, location=location)


def postpone_upload(connection: Connection, upload: UploadRow, *, until: float, error: str) -> None:
    """An attempt failed."""
    _update(
        connection,
        upload,
        state=UploadState.WAITING,
        attempts=upload.attempts + 1,
        next_attempt_at=until,
        last_error=error,
    )


def return_upload(connection: Connection, upload: UploadRow) -> None:
    """An attempt was cancelled: it waits again, as it did."""
    _update(connection, upload, state=UploadState.WAITING)


def return_all(connection: Connection) -> None:
    """What a kill left as being uploaded waits again."""
    connection.execute(
        update(uploads)
        .where(uploads.c.state == UploadState.UPLOADING)
        .values(state=UploadState.WAITING)
    )


def delete_upload(connection: Connection, upload: UploadRow) -> None:
    """It is done, or not wanted any more."""
    connection.execute(delete(uploads).where(*_key(upload)))


def load_uploads(connection: Connection, limit: int) -> list[UploadRow]:
    """All of them, the oldest first."""
    rows = connection.execute(select(uploads).order_by(uploads.c.created_at).limit(limit))
    return [_parse(row) for row in rows]


def count_uploads(connection: Connection) -> dict[str, tuple[int, int]]:
    """How many blobs, and bytes, each portal is still to get."""
    rows = connection.execute(
        select(uploads.c.portal, func.count(), func.sum(uploads.c.size)).group_by(uploads.c.portal)
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _update(connection: Connection, upload: UploadRow, **values: Any) -> None:
    connection.execute(update(uploads).where(*_key(upload)).values(**values))


def _key(upload: UploadRow) -> tuple[Any, Any]:
    return uploads.c.digest == upload.blob.digest, uploads.c.portal == upload.portal


def _parse(row: Row[*tuple[Any, ...]]) -> UploadRow:
    return UploadRow(
        blob=BlobId(row.digest, row.size),
        portal=row.portal,
        state=UploadState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        location=row.location,
        last_error=row.last_error,
    )
