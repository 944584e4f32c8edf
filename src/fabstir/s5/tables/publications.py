"""Registry entries that this node set, and which revision of each every portal has."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Float, LargeBinary, String, Table, select
from sqlalchemy.dialects.sqlite import insert

from fabstir.s5.tables.schema import MAX_PLACE_CHARS, s5_metadata

own_entries = Table(
    "own_entries",
    s5_metadata,
    Column("public_key", LargeBinary(32), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("set_at", Float, nullable=False),
    sqlite_with_rowid=False,
)
"""Keys whose entries are set on this machine, and the newest revision that was."""

publications = Table(
    "publications",
    s5_metadata,
    Column("public_key", LargeBinary(32), primary_key=True),
    Column("place", String(MAX_PLACE_CHARS), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""What a portal has acknowledged."""


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A key whose newest entry a portal does not have yet."""

    public_key: bytes
    revision: int


def note_own_entry(connection: Connection, public_key: bytes, revision: int, now: float) -> None:
    """An entry was set here."""
    statement = insert(own_entries).values(public_key=public_key, revision=revision, set_at=now)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[own_entries.c.public_key],
            set_={"revision": revision, "set_at": now},
            where=own_entries.c.revision < revision,
        )
    )


def is_own_key(connection: Connection, public_key: bytes) -> bool:
    """Whether the key's entries are set on this machine, or were about to be."""
    row = connection.execute(
        select(own_entries.c.revision).where(own_entries.c.public_key == public_key)
    ).first()
    return row is not None


def load_unpublished(connection: Connection, place: str, limit: int) -> list[Unpublished]:
    """What a portal lacks, the longest waiting first."""
    there = (
        select(publications.c.public_key, publications.c.revision)
        .where(publications.c.place == place)
        .subquery()
    )
    rows = connection.execute(
        select(own_entries.c.public_key, own_entries.c.revision)
        .outerjoin(there, there.c.public_key == own_entries.c.public_key)
        .where((there.c.revision.is_(None)) | (there.c.revision < own_entries.c.revision))
        .order_by(own_entries.c.set_at)
        .limit(limit)
    )
    return [Unpublished(row[0], row[1]) for row in rows]


def note_publication(connection: Connection, public_key: bytes, place: str, revision: int) -> None:
    """A portal has this revision now."""
    statement = insert(publications).values(public_key=public_key, place=place, revision=revision)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[publications.c.public_key, publications.c.place],
            set_={"revision": revision},
        )
    )
