"""Does this journal belong to this chain? Chain ids are reused by devnets, genesis blocks not."""

from __future__ import annotations

from fabstir.chain.rpc import Chain
from fabstir.db import Database, DatabaseReader
from fabstir.db.chains import bind_chain, bound_chain
from fabstir.primitives.errors import ChainError, ChainReplaced, ConfigError
from fabstir.primitives.ids import Hash32


async def genesis_hash(chain: Chain) -> Hash32:
    """What tells two chains of one id apart.

    Raises:
        ChainError: the node does not have its first block yet.
    """
    genesis = await chain.block(0)
    if genesis is None:
        raise ChainError(f"{chain.shown_url} has no block 0: it is still syncing; try again later")
    return genesis.hash


async def bind_chain_identity(chain: Chain, db: Database) -> None:
    """Have a journal belong to this chain from its first use on.

    Raises:
        ConfigError: as `check_chain_identity`.
    """
    genesis = await genesis_hash(chain)
    known = await db.write(lambda c: bind_chain(c, chain.chain_id, genesis), durable=True)
    _require_same(chain, db, known, genesis)


async def check_chain_identity(chain: Chain, db: DatabaseReader) -> None:
    """Refuse a journal that was written with another chain of the same id.

    Raises:
        ConfigError: names both; nonces and sessions of the one mean nothing on the other.
    """
    genesis = await genesis_hash(chain)
    known = await db.read(lambda c: bound_chain(c, chain.chain_id))
    _require_same(chain, db, known or genesis, genesis)


def _require_same(chain: Chain, db: DatabaseReader, known: Hash32, genesis: Hash32) -> None:
    if known != genesis:
        raise ConfigError(
            f"{db.place} was written with another chain of id {chain.chain_id} (genesis {known}, "
            f"now {genesis}): a devnet is new at each start; use another data folder or "
            "database, or delete this one if nothing in it is worth anything"
        )


async def confirm_chain_identity(chain: Chain, db: DatabaseReader) -> None:
    """Before money moves: a devnet may have been started again since this process did.

    Raises:
        ChainReplaced: another chain of the same id answers now.
        ChainError: none does.
    """
    genesis = await genesis_hash(chain)
    known = await db.read(lambda c: bound_chain(c, chain.chain_id))
    if known not in {None, genesis}:
        raise ChainReplaced(
            f"another chain of id {chain.chain_id} answers at {chain.shown_url} than at the start "
            f"(genesis {known}, now {genesis}): nothing is served or sent until the first one is "
            "back; for a new devnet stop, and start again with another data folder"
        )
