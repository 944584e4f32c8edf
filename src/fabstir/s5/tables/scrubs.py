"""Progress of the current scrub, which survives restarts, and when the last one ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Float, Integer, String, Table, select
from sqlalchemy.dialects.sqlite import insert

from fabstir.s5.tables.schema import s5_metadata

scrubs = Table(
    "scrubs",
    s5_metadata,
    Column("id", Integer, primary_key=True),
    Column("cursor", String(64), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("num_blobs", BigInteger, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("finished_at", Float),
)
"""One row."""

_ONLY_ROW: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubRound:
    """How far it is.

    Attributes:
        cursor: of the last report; "": none is on its way.
        started_at: Unix seconds, of this round, or of the last one.
        num_blobs, num_bytes: checked in it.
        finished_at: when the last round ended that saw everything; None: none ever did.
    """

    cursor: str = ""
    started_at: float = 0.0
    num_blobs: int = 0
    num_bytes: int = 0
    finished_at: float | None = None


def load_round(connection: Connection) -> ScrubRound:
    """As it was saved last."""
    c = scrubs.c
    row = connection.execute(
        select(c.cursor, c.started_at, c.num_blobs, c.num_bytes, c.finished_at)
    ).one_or_none()
    if row is None:
        return ScrubRound()
    return ScrubRound(
        cursor=row[0], started_at=row[1], num_blobs=row[2], num_bytes=row[3], finished_at=row[4]
    )


def save_round(connection: Connection, current: ScrubRound) -> None:
    """It is that far now."""
    values = {
        "cursor": current.cursor,
        "started_at": current.started_at,
        "num_blobs": current.num_blobs,
        "num_bytes": current.num_bytes,
        "finished_at": current.finished_at,
    }
    connection.execute(
        insert(scrubs)
        .values(id=_ONLY_ROW, **values)
        .on_conflict_do_update(index_elements=[scrubs.c.id], set_=values)
    )
