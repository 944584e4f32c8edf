"""Which chain this journal belongs to: chain ids are reused by devnets, genesis blocks are not."""

from __future__ import annotations

from sqlalchemy import Column, Connection, Table, insert, select

from fabstir.db.schema import Whole, Word, metadata
from fabstir.primitives.ids import ChainId, Hash32

chains = Table(
    "chains",
    metadata,
    Column("chain_id", Whole, primary_key=True, autoincrement=False),
    Column("genesis_hash", Word(66), nullable=False),
)


def bound_chain(connection: Connection, chain_id: ChainId) -> Hash32 | None:
    """The genesis block of the chain that the journal belongs to; None before its first use."""
    known = connection.scalar(select(chains.c.genesis_hash).where(chains.c.chain_id == chain_id))
    return None if known is None else Hash32(known)


def bind_chain(connection: Connection, chain_id: ChainId, genesis_hash: Hash32) -> Hash32:
    """Remember the genesis block at first use; returns the one that the journal belongs to."""
    known = bound_chain(connection, chain_id)
    if known is not None:
        return known
    connection.execute(insert(chains).values(chain_id=chain_id, genesis_hash=genesis_hash))
    return genesis_hash
