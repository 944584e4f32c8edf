"""What the store has: a row a blob, the bytes of small ones, and what its files hash to.

A file below the store's folder is named by a row of `blobs` or by one of `doomed_files`, from
before it appears until after it is gone. So nothing that a kill left needs to be searched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from fabstir.primitives.cid import BlobId, HashType, Multihash
from fabstir.s5.tables.schema import s5_metadata

GROUP_HASH_BYTES: Final = 32
_GROUPS_PER_ROW: Final = 1024
"""32 KiB of hashes a row: those of 256 MiB. A range reads only the rows that it needs."""

blobs = Table(
    "blobs",
    s5_metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("sha256", LargeBinary(32), unique=True),
    Column("size", BigInteger, nullable=False),
    Column("file", String(128)),
    Column("is_bad", Boolean, nullable=False),
    Column("num_pins", Integer, nullable=False),
    Column("unpinned_at", Float),
    Column("created_at", Float, nullable=False),
    # An id that were used again could show a slow reader another blob's groups.
    sqlite_autoincrement=True,
)
"""`digest`: BLAKE3; `sha256`: known where somebody named the blob so. `file`: None where the bytes
are in `blob_data`. `unpinned_at`: since when nobody pins it, in seconds of the store's clock."""

Index(
    "ix_blobs_garbage",
    blobs.c.unpinned_at,
    sqlite_where=text("unpinned_at IS NOT NULL"),
)

DAMAGED: Final = Index("ix_blobs_damaged", blobs.c.id, sqlite_where=blobs.c.is_bad.is_(True))
"""Hardly any: counting them reads no others."""

blob_data = Table(
    "blob_data",
    s5_metadata,
    Column("blob_id", Integer, ForeignKey("blobs.id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
"""Apart from `blobs`, because SQLite rewrites a whole row when one of its columns changes."""

blob_groups = Table(
    "blob_groups",
    s5_metadata,
    Column("blob_id", Integer, ForeignKey("blobs.id"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("hashes", LargeBinary, nullable=False),
)
"""BLAKE3 of each 256 KiB of a file, 1,024 a row, computed while its whole hash was verified."""

doomed_files = Table(
    "doomed_files",
    s5_metadata,
    Column("file", String(128), primary_key=True),
)
"""Files that are to be removed: not named by a blob yet, or no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRow:
    """A blob as the store knows it.

    Attributes:
        file: path below the store's folder; None: the bytes are in the database.
        is_bad: its bytes were found rotten, and are not served until somebody stores it anew.
    """

    id: int
    digest: bytes
    sha256: bytes | None
    size: int
    file: str | None
    is_bad: bool
    num_pins: int

    @property
    def blob(self) -> BlobId:
        """Its BLAKE3 identifier."""
        return BlobId(self.digest, self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Verified bytes that are to become a blob: `data`, or `file` with its `groups`."""

    digest: bytes
    size: int
    sha256: bytes | None = None
    data: bytes | None = None
    file: str | None = None
    groups: bytes = b""


_ROW = (
    blobs.c.id,
    blobs.c.digest,
    blobs.c.sha256,
    blobs.c.size,
    blobs.c.file,
    blobs.c.is_bad,
    blobs.c.num_pins,
)


# A put runs eight statements, and making one costs four times as much as running it: those that
# every put and get need are made once.
_FIND = {
    HashType.BLAKE3: select(*_ROW).where(blobs.c.digest == bindparam("name")),
    HashType.SHA256: select(*_ROW).where(blobs.c.sha256 == bindparam("name")),
}
_LOAD_DATA = select(blob_data.c.data).where(blob_data.c.blob_id == bindparam("id"))
_INSERT_BLOB = insert(blobs).returning(blobs.c.id)
_INSERT_DATA = insert(blob_data)


def _row(row: Row[*tuple[Any, ...]]) -> BlobRow:
    return BlobRow(
        id=row[0],
        digest=row[1],
        sha256=row[2],
        size=row[3],
        file=row[4],
        is_bad=row[5],
        num_pins=row[6],
    )


def find_blob(connection: Connection, name: Multihash) -> BlobRow | None:
    """The blob of this hash, of either kind."""
    row = connection.execute(_FIND[name.type], {"name": name.digest}).one_or_none()
    return None if row is None else _row(row)


def load_data(connection: Connection, blob_id: int) -> bytes | None:
    """The bytes of a small blob."""
    return connection.scalar(_LOAD_DATA, {"id": blob_id})


def load_groups(connection: Connection, blob_id: int, first: int, end: int) -> bytes:
    """The hashes of the groups from `first` to before `end`, one after another."""
    part = first // _GROUPS_PER_ROW
    parts = connection.scalars(
        select(blob_groups.c.hashes)
        .where(
            blob_groups.c.blob_id == blob_id,
            blob_groups.c.part.between(part, (end - 1) // _GROUPS_PER_ROW),
        )
        .order_by(blob_groups.c.part)
    )
    skipped = part * _GROUPS_PER_ROW
    joined = b"".join(parts)
    return joined[(first - skipped) * GROUP_HASH_BYTES : (end - skipped) * GROUP_HASH_BYTES]


def insert_blob(connection: Connection, content: Content, now: float) -> BlobRow:
    """Take a blob in that is about to be pinned once, in the same transaction."""
    blob_id = connection.scalar(
        _INSERT_BLOB,
        {
            "digest": content.digest,
            "sha256": content.sha256,
            "size": content.size,
            "file": content.file,
            "is_bad": False,
            "num_pins": 1,
            "created_at": now,
        },
    )
    assert blob_id is not None, "an inserted row has an id"
    _insert_bytes(connection, blob_id, content)
    return BlobRow(
        id=blob_id,
        digest=content.digest,
        sha256=content.sha256,
        size=content.size,
        file=content.file,
        is_bad=False,
        num_pins=1,
    )


def replace_bytes(connection: Connection, row: BlobRow, content: Content) -> None:
    """Put verified bytes in the place of rotten or missing ones; pins stay as they are."""
    _delete_bytes(connection, [row])
    connection.execute(
        update(blobs).where(blobs.c.id == row.id).values(file=content.file, is_bad=False)
    )
    _insert_bytes(connection, row.id, content)


def name_by_sha256(connection: Connection, row: BlobRow, sha256: bytes) -> None:
    """Remember the other hash of a blob that is here already."""
    connection.execute(update(blobs).where(blobs.c.id == row.id).values(sha256=sha256))


def mark_bad(connection: Connection, row: BlobRow) -> None:
    """Never serve these bytes again. Does nothing where they were replaced meanwhile."""
    same = blobs.c.file.is_(None) if row.file is None else blobs.c.file == row.file
    connection.execute(update(blobs).where(blobs.c.id == row.id, same).values(is_bad=True))


def count_damaged(connection: Connection) -> int:
    """Blobs that are not served, because their bytes were found to be wrong."""
    return connection.scalar(select(func.count()).where(blobs.c.is_bad.is_(True))) or 0


def restore_groups(connection: Connection, row: BlobRow, groups: bytes) -> bool:
    """Serve a blob again whose bytes are right, with the right hashes of its groups.

    Returns:
        False: it was collected or stored anew meanwhile, and nothing is changed.
    """
    current = load_row(connection, row.id)
    if current is None or current.file != row.file:
        return False
    connection.execute(update(blobs).where(blobs.c.id == row.id).values(is_bad=False))
    if row.file is not None:
        connection.execute(delete(blob_groups).where(blob_groups.c.blob_id == row.id))
        _insert_groups(connection, row.id, groups)
    return True


def load_garbage(connection: Connection, unpinned_before: float, limit: int) -> list[BlobRow]:
    """Blobs that nobody has pinned since then, oldest first."""
    rows = connection.execute(
        select(*_ROW)
        .where(blobs.c.unpinned_at.is_not(None), blobs.c.unpinned_at <= unpinned_before)
        .order_by(blobs.c.unpinned_at)
        .limit(limit)
    )
    return [_row(row) for row in rows]


def delete_blobs(connection: Connection, rows: Sequence[BlobRow]) -> None:
    """Forget blobs that nobody pins; their files are doomed."""
    if rows:
        _delete_bytes(connection, rows)
        connection.execute(delete(blobs).where(blobs.c.id.in_([row.id for row in rows])))


def load_page(connection: Connection, after: int, limit: int) -> list[BlobRow]:
    """All blobs by id, a page at a time: those behind `after`."""
    rows = connection.execute(
        select(*_ROW).where(blobs.c.id > after).order_by(blobs.c.id).limit(limit)
    )
    return [_row(row) for row in rows]


def load_pinned(connection: Connection, ids: Sequence[int]) -> list[BlobRow]:
    """Those of some blobs that somebody pins."""
    rows = connection.execute(select(*_ROW).where(blobs.c.id.in_(ids), blobs.c.num_pins > 0))
    return [_row(row) for row in rows]


def load_row(connection: Connection, blob_id: int) -> BlobRow | None:
    """A blob by id."""
    row = connection.execute(select(*_ROW).where(blobs.c.id == blob_id)).one_or_none()
    return None if row is None else _row(row)


def doom(connection: Connection, files: Iterable[str]) -> None:
    """Note files as to be removed, before they appear or when no blob names them any more."""
    values = [{"file": file} for file in files]
    if values:
        connection.execute(insert(doomed_files), values)


def forget_doomed(connection: Connection, files: Iterable[str]) -> None:
    """They are gone, or a blob names them now."""
    connection.execute(delete(doomed_files).where(doomed_files.c.file.in_(list(files))))


def load_doomed(connection: Connection, files: Sequence[str] | None = None) -> list[str]:
    """Those of `files`, or all: a handful, some hundreds where a collection was killed."""
    query = select(doomed_files.c.file)
    if files is not None:
        query = query.where(doomed_files.c.file.in_(files))
    return list(connection.scalars(query))


def named_files(connection: Connection, files: Sequence[str]) -> set[str]:
    """Which of these a row names, of a blob or as doomed."""
    kept = connection.scalars(select(blobs.c.file).where(blobs.c.file.in_(files)))
    doomed = connection.scalars(select(doomed_files.c.file).where(doomed_files.c.file.in_(files)))
    return {file for file in kept if file is not None} | set(doomed)


def _insert_bytes(connection: Connection, blob_id: int, content: Content) -> None:
    if content.file is None:
        connection.execute(_INSERT_DATA, {"blob_id": blob_id, "data": content.data})
        return
    forget_doomed(connection, [content.file])
    _insert_groups(connection, blob_id, content.groups)


def _insert_groups(connection: Connection, blob_id: int, groups: bytes) -> None:
    row_bytes = _GROUPS_PER_ROW * GROUP_HASH_BYTES
    connection.execute(
        insert(blob_groups),
        [
            {"blob_id": blob_id, "part": part, "hashes": groups[start : start + row_bytes]}
            for part, start in enumerate(range(0, len(groups), row_bytes))
        ],
    )


def _delete_bytes(connection: Connection, rows: Sequence[BlobRow]) -> None:
    ids = [row.id for row in rows]
    connection.execute(delete(blob_data).where(blob_data.c.blob_id.in_(ids)))
    connection.execute(delete(blob_groups).where(blob_groups.c.blob_id.in_(ids)))
    doom(connection, [row.file for row in rows if row.file is not None])
