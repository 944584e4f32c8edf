"""Usage summed by owner and reason, for people to read."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, String, case, func, select

from fabstir.s5.tables.blobs import blobs
from fabstir.s5.tables.pins import owners, pins


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """What one owner keeps for one reason.

    Attributes:
        max_bytes: the owner's quota, for all reasons together; None: there is none.
    """

    owner: str
    reason: str
    num_blobs: int
    num_bytes: int
    max_bytes: int | None


def load_usage_lines(connection: Connection, limit: int) -> list[UsageLine]:
    """By owner, then the largest first. Reads every pin: a second for a million of them."""
    total = func.sum(blobs.c.size)
    # The file system writes fs:TREE:DIRECTORY:what; people want to know of trees.
    reason = case(
        (
            pins.c.reason.like(f"fs:{'_' * 8}:{'_' * 16}:%"),
            func.substr(pins.c.reason, 1, 12, type_=String)
            + func.substr(pins.c.reason, 30, type_=String),
        ),
        else_=pins.c.reason,
    )
    rows = connection.execute(
        select(pins.c.owner, reason, func.count(), total, owners.c.max_bytes)
        .join(blobs, blobs.c.id == pins.c.blob_id)
        .outerjoin(owners, owners.c.owner == pins.c.owner)
        .group_by(pins.c.owner, reason, owners.c.max_bytes)
        .order_by(pins.c.owner, total.desc())
        .limit(limit)
    )
    return [
        UsageLine(owner=r[0], reason=r[1], num_blobs=r[2], num_bytes=r[3], max_bytes=r[4])
        for r in rows
    ]


def count_pins(connection: Connection) -> tuple[int, int]:
    """Pins, and their bytes, of all owners together."""
    row = connection.execute(
        select(
            func.coalesce(func.sum(owners.c.num_blobs), 0),
            func.coalesce(func.sum(owners.c.num_bytes), 0),
        ).where(owners.c.owner != "")
    ).one()
    return row[0], row[1]
