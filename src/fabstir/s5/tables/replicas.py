"""Copies of blobs elsewhere: where each is, whether it got there, and when somebody looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    LargeBinary,
    String,
    Table,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from fabstir.primitives.cid import BlobId
from fabstir.s5.tables.blobs import blobs
from fabstir.s5.tables.pins import CACHED, pins
from fabstir.s5.tables.schema import MAX_PLACE_CHARS, s5_metadata


class ReplicaState(StrEnum):
    """queued: on its way. stored: it was there when it was last looked at."""

    QUEUED = "queued"
    STORED = "stored"


replicas = Table(
    "replicas",
    s5_metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("place", String(MAX_PLACE_CHARS), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("checked_at", Float, nullable=False),
    sqlite_with_rowid=False,
)
"""`place`: a portal's URL. `checked_at`: Unix seconds of the last look, or of being queued. A row
outlives its blob here, until the copy is gone too."""

Index("ix_replicas_due", replicas.c.state, replicas.c.checked_at)

ReplicaKey = tuple[bytes, str]
"""Of a row: the blob's digest and the place."""

FIRST_KEY: Final[ReplicaKey] = (b"", "")
"""Before all of them."""

_IS_KEPT = exists().where(pins.c.blob_id == blobs.c.id, pins.c.reason != CACHED)
"""Whether somebody wants more than a cache's copy of a blob. Whoever pins it at all is enough for
copies that are there already: they are taken back with the last pin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A copy of a blob somewhere else."""

    blob: BlobId
    place: str
    state: ReplicaState
    checked_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A pinned blob with fewer copies than it should have.

    Attributes:
        id: of the store, in whose order they are looked for.
        taken: places where copies are, or will be soon.
        late: places to which copies have been on their way for too long.
    """

    id: int
    blob: BlobId
    taken: frozenset[str]
    late: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceUsage:
    """What one place has of ours."""

    place: str
    state: ReplicaState
    num_blobs: int
    num_bytes: int


def load_wanted(
    connection: Connection,
    places: Sequence[str],
    num_copies: int,
    *,
    queued_after: float,
    after: int,
    limit: int,
) -> list[Wanted]:
    """Kept blobs with fewer than `num_copies` in `places`, by id, a page at a time.

    Args:
        queued_after: what was queued earlier is no copy.
        after: 0 first, then the last id of the page before.
    """
    is_copy = and_(
        replicas.c.place.in_(places),
        or_(replicas.c.state == ReplicaState.STORED, replicas.c.checked_at > queued_after),
    )
    num_there = (
        select(func.count()).where(replicas.c.digest == blobs.c.digest, is_copy).scalar_subquery()
    )
    rows = connection.execute(
        select(blobs.c.id, blobs.c.digest, blobs.c.size)
        .where(
            blobs.c.id > after,
            blobs.c.num_pins > 0,
            blobs.c.is_bad.is_(False),
            num_there < num_copies,
            _IS_KEPT,
        )
        .order_by(blobs.c.id)
        .limit(limit)
    ).all()
    found: list[Wanted] = []
    for row in rows:
        of_blob = select(replicas.c.place).where(replicas.c.digest == row[1])
        taken = frozenset(connection.scalars(of_blob.where(is_copy)))
        late = frozenset(connection.scalars(of_blob)) - taken
        found.append(Wanted(id=row[0], blob=BlobId(row[1], row[2]), taken=taken, late=late))
    return found


def newest_blob(connection: Connection) -> int:
    """The id of the blob that came last; 0: there is none."""
    return connection.scalar(select(func.coalesce(func.max(blobs.c.id), 0))) or 0


def load_rotten(connection: Connection, limit: int) -> list[BlobId]:
    """Kept blobs of this store whose bytes were found damaged; others each time, if there are more:
    those that nobody has must not keep the rest waiting."""
    rows = connection.execute(
        select(blobs.c.digest, blobs.c.size)
        .where(blobs.c.is_bad.is_(True), blobs.c.num_pins > 0, _IS_KEPT)
        .order_by(func.random())
        .limit(limit)
    )
    return [BlobId(row[0], row[1]) for row in rows]


def count_missing(connection: Connection, places: Sequence[str], num_copies: int) -> int:
    """Copies that kept blobs lack in `places`; what is only queued is lacking still. What is
    damaged here is mended first: no copies are made of it.
    """
    stored = (
        select(replicas.c.digest, func.count().label("copies"))
        .where(replicas.c.place.in_(places), replicas.c.state == ReplicaState.STORED)
        .group_by(replicas.c.digest)
        .subquery()
    )
    have = func.min(func.coalesce(stored.c.copies, 0), num_copies)
    return (
        connection.scalar(
            select(func.coalesce(func.sum(num_copies - have), 0))
            .select_from(blobs)
            .outerjoin(stored, stored.c.digest == blobs.c.digest)
            .where(blobs.c.num_pins > 0, blobs.c.is_bad.is_(False), _IS_KEPT)
        )
        or 0
    )


def save_queued(connection: Connection, blob: BlobId, place: str, now: float) -> None:
    """A copy is on its way; where it has arrived meanwhile, nothing changes."""
    values = _values(blob, place, ReplicaState.QUEUED, now)
    connection.execute(
        insert(replicas)
        .values(values)
        .on_conflict_do_update(
            index_elements=[replicas.c.digest, replicas.c.place],
            set_={"checked_at": now},
            where=replicas.c.state == ReplicaState.QUEUED,
        )
    )


def save_stored(connection: Connection, blob: BlobId, place: str, now: float) -> None:
    """A copy has arrived."""
    values = _values(blob, place, ReplicaState.STORED, now)
    connection.execute(
        insert(replicas)
        .values(values)
        .on_conflict_do_update(
            index_elements=[replicas.c.digest, replicas.c.place],
            set_={"state": ReplicaState.STORED, "checked_at": now},
        )
    )


def _values(blob: BlobId, place: str, state: ReplicaState, now: float) -> dict[str, object]:
    return {
        "digest": blob.digest,
        "place": place,
        "size": blob.size,
        "state": state,
        "checked_at": now,
    }


def touch_replica(connection: Connection, replica: Replica, now: float) -> None:
    """It was looked at, without a result: the next look is at others first."""
    connection.execute(
        update(replicas)
        .where(replicas.c.digest == replica.blob.digest, replicas.c.place == replica.place)
        .values(checked_at=now)
    )


def delete_replica(connection: Connection, replica: Replica) -> None:
    """It is not there, or not wanted any more."""
    connection.execute(
        delete(replicas).where(
            replicas.c.digest == replica.blob.digest, replicas.c.place == replica.place
        )
    )


def load_due(
    connection: Connection,
    places: Sequence[str],
    state: ReplicaState,
    before: float,
    limit: int,
) -> list[Replica]:
    """Copies in `places` that nobody looked at since `before`, the longest unseen first."""
    rows = connection.execute(
        select(replicas)
        .where(
            replicas.c.place.in_(places),
            replicas.c.state == state,
            replicas.c.checked_at <= before,
        )
        .order_by(replicas.c.checked_at)
        .limit(limit)
    )
    return [_replica(row.digest, row.size, row.place, row.state, row.checked_at) for row in rows]


def load_unwanted(
    connection: Connection, places: Sequence[str], *, after: ReplicaKey, window: int, limit: int
) -> tuple[list[Replica], ReplicaKey]:
    """Copies in `places` of blobs that nobody pins here any more, among the next rows.

    Args:
        after: FIRST_KEY, or what came back the last time: those that cannot be taken back do not
            keep the rest waiting, and no call reads the whole table.
        window: rows to look at.

    Returns:
        They, and where to go on; FIRST_KEY: the end was reached.
    """
    key = tuple_(replicas.c.digest, replicas.c.place)
    in_order = (replicas.c.digest, replicas.c.place)
    behind = select(*in_order).where(key > after).order_by(*in_order)
    last = connection.execute(behind.offset(window - 1).limit(1)).first()
    query = (
        select(replicas)
        .outerjoin(blobs, blobs.c.digest == replicas.c.digest)
        .where(key > after)
        .where(replicas.c.place.in_(places), func.coalesce(blobs.c.num_pins, 0) == 0)
        .order_by(*in_order)
        .limit(limit)
    )
    if last is not None:
        query = query.where(key <= (last[0], last[1]))
    rows = connection.execute(query).all()
    found = [_replica(row.digest, row.size, row.place, row.state, row.checked_at) for row in rows]
    if len(rows) == limit:
        return found, (rows[-1].digest, rows[-1].place)
    return found, FIRST_KEY if last is None else (last[0], last[1])


def load_replicas(connection: Connection, blob: BlobId) -> list[Replica]:
    """Where copies of one blob are."""
    rows = connection.execute(
        select(replicas).where(replicas.c.digest == blob.digest).order_by(replicas.c.place)
    )
    return [_replica(row.digest, row.size, row.place, row.state, row.checked_at) for row in rows]


def load_places(connection: Connection) -> list[PlaceUsage]:
    """What is where, by place and state."""
    rows = connection.execute(
        select(
            replicas.c.place,
            replicas.c.state,
            func.count(),
            func.coalesce(func.sum(replicas.c.size), 0),
        )
        .group_by(replicas.c.place, replicas.c.state)
        .order_by(replicas.c.place, replicas.c.state)
    )
    return [
        PlaceUsage(place=row[0], state=ReplicaState(row[1]), num_blobs=row[2], num_bytes=row[3])
        for row in rows
    ]


def _replica(digest: bytes, size: int, place: str, state: str, checked_at: float) -> Replica:
    return Replica(
        blob=BlobId(digest, size), place=place, state=ReplicaState(state), checked_at=checked_at
    )
