"""How far each reader of the chain's events has got, and the block hashes it has seen.

The hashes are what a reorg is noticed by, also by one that happened while this process was down.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    Column,
    Connection,
    ForeignKeyConstraint,
    Table,
    delete,
    insert,
    select,
    update,
)

from fabstir.db.schema import Whole, Word, metadata
from fabstir.primitives.ids import ChainId, Hash32

cursors = Table(
    "cursors",
    metadata,
    Column("chain_id", Whole, primary_key=True, autoincrement=False),
    Column("name", Word(64), primary_key=True),
    Column("block_number", Whole, nullable=False),
)

cursor_blocks = Table(
    "cursor_blocks",
    metadata,
    Column("chain_id", Whole, primary_key=True, autoincrement=False),
    Column("name", Word(64), primary_key=True),
    Column("block_number", Whole, primary_key=True, autoincrement=False),
    Column("block_hash", Word(66), nullable=False),
    ForeignKeyConstraint(["chain_id", "name"], ["cursors.chain_id", "cursors.name"]),
)


@dataclass(frozen=True, slots=True)
class SeenBlock:
    """A block whose events were all handed over."""

    number: int
    hash: Hash32


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a reader stands."""

    block_number: int
    """Every event up to and with this block was committed by its consumer."""
    blocks: tuple[SeenBlock, ...]
    """The last ones, ascending; the newest is `block_number`'s unless the reader just rolled back
    to its start."""


def load_cursor(connection: Connection, chain_id: ChainId, name: str) -> Cursor | None:
    """The reader's place, or None if it never committed."""
    number = connection.scalar(
        select(cursors.c.block_number).where(cursors.c.chain_id == chain_id, cursors.c.name == name)
    )
    if number is None:
        return None
    rows = connection.execute(
        select(cursor_blocks.c.block_number, cursor_blocks.c.block_hash)
        .where(cursor_blocks.c.chain_id == chain_id, cursor_blocks.c.name == name)
        .order_by(cursor_blocks.c.block_number)
    )
    return Cursor(number, tuple(SeenBlock(row.block_number, row.block_hash) for row in rows))


def save_cursor(connection: Connection, chain_id: ChainId, name: str, cursor: Cursor) -> None:
    """Replace the reader's place and the hashes it remembers."""
    key = {"chain_id": chain_id, "name": name}
    moved = connection.execute(
        update(cursors)
        .where(cursors.c.chain_id == chain_id, cursors.c.name == name)
        .values(block_number=cursor.block_number)
    )
    if not moved.rowcount:
        connection.execute(insert(cursors).values(**key, block_number=cursor.block_number))
    mine = (cursor_blocks.c.chain_id == chain_id, cursor_blocks.c.name == name)
    known = select(cursor_blocks.c.block_number, cursor_blocks.c.block_hash).where(*mine)
    stored = {SeenBlock(row.block_number, row.block_hash) for row in connection.execute(known)}
    wanted = set(cursor.blocks)
    gone = [block.number for block in stored - wanted]
    if gone:
        connection.execute(
            delete(cursor_blocks).where(*mine, cursor_blocks.c.block_number.in_(gone))
        )
    new = [{**key, "block_number": b.number, "block_hash": b.hash} for b in wanted - stored]
    if new:
        connection.execute(insert(cursor_blocks), new)
