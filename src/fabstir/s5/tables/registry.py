"""Registry entries: the newest of each key, and the proof where a key signed a revision twice."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    Table,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    update,
)

from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.tables.schema import s5_metadata

MAX_FORKS: Final = 16
"""Most pieces of evidence that are kept of one key: two are proof enough."""

registry_entries = Table(
    "registry_entries",
    s5_metadata,
    Column("public_key", LargeBinary(32), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("data", LargeBinary(64), nullable=False),
    Column("signature", LargeBinary(64), nullable=False),
    Column("updated_at", Float, nullable=False),
)

registry_forks = Table(
    "registry_forks",
    s5_metadata,
    Column("public_key", LargeBinary(32), primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("data", LargeBinary(64), primary_key=True),
    Column("signature", LargeBinary(64), nullable=False),
    Column("seen_at", Float, nullable=False),
)
"""Entries that were refused although their key signed them: another one of their revision was
there. Both sides of each fork are kept, because the entry itself moves on."""


# As in `blobs`: what every write of a directory runs is made once.
_LOAD_ENTRY = select(
    registry_entries.c.revision, registry_entries.c.data, registry_entries.c.signature
).where(registry_entries.c.public_key == bindparam("key"))
_REPLACE_ENTRY = (
    update(registry_entries)
    .where(registry_entries.c.public_key == bindparam("key"))
    .values({name: bindparam(name) for name in ("revision", "data", "signature", "updated_at")})
)
_INSERT_ENTRY = insert(registry_entries)


def load_entry(connection: Connection, public_key: bytes) -> SignedEntry | None:
    """The newest entry of a key."""
    row = connection.execute(_LOAD_ENTRY, {"key": public_key}).one_or_none()
    if row is None:
        return None
    return SignedEntry(public_key=public_key, revision=row[0], data=row[1], signature=row[2])


def load_entries(connection: Connection, after: bytes, limit: int) -> list[SignedEntry]:
    """The newest entries of the keys behind one, by key."""
    table = registry_entries.c
    rows = connection.execute(
        select(table.public_key, table.revision, table.data, table.signature)
        .where(table.public_key > after)
        .order_by(table.public_key)
        .limit(limit)
    )
    return [
        SignedEntry(public_key=row[0], revision=row[1], data=row[2], signature=row[3])
        for row in rows
    ]


def count_entries(connection: Connection) -> int:
    """How many keys have one. Fast, because none is ever deleted: the last row's number."""
    last = select(func.max(literal_column("rowid", Integer))).select_from(registry_entries)
    return connection.scalar(last) or 0


def save_entry(connection: Connection, entry: SignedEntry, now: float) -> None:
    """Replace a key's entry, or add its first."""
    values = {
        "revision": entry.revision,
        "data": entry.data,
        "signature": entry.signature,
        "updated_at": now,
    }
    changed = connection.execute(_REPLACE_ENTRY, {"key": entry.public_key, **values})
    if not changed.rowcount:
        connection.execute(_INSERT_ENTRY, {"public_key": entry.public_key, **values})


def save_fork(connection: Connection, entry: SignedEntry, now: float) -> None:
    """Keep one side of a fork; nothing changes where it is kept, or enough of the key's are."""
    table = registry_forks.c
    num_known = connection.scalar(
        select(func.count()).select_from(registry_forks).where(table.public_key == entry.public_key)
    )
    same = select(table.data).where(
        table.public_key == entry.public_key,
        table.revision == entry.revision,
        table.data == entry.data,
    )
    if (num_known or 0) >= MAX_FORKS or connection.execute(same).first() is not None:
        return
    connection.execute(
        insert(registry_forks).values(
            public_key=entry.public_key,
            revision=entry.revision,
            data=entry.data,
            signature=entry.signature,
            seen_at=now,
        )
    )


def load_forks(connection: Connection, public_key: bytes) -> list[SignedEntry]:
    """All sides of all forks of a key, by revision."""
    table = registry_forks.c
    rows = connection.execute(
        select(table.revision, table.data, table.signature)
        .where(table.public_key == public_key)
        .order_by(table.revision, table.seen_at)
    )
    return [
        SignedEntry(public_key=public_key, revision=row[0], data=row[1], signature=row[2])
        for row in rows
    ]
