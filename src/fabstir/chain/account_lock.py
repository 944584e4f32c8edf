"""One process an account: two would take each other's nonces and settle each other's sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fabstir.chain.rpc import Chain
from fabstir.db.lock import locked
from fabstir.primitives.errors import ChainError
from fabstir.primitives.ids import Address


@asynccontextmanager
async def sole_user(chain: Chain, account: Address, cache_dir: Path) -> AsyncGenerator[None]:
    """Be the only process of this user that acts for `account` on this chain, for the block.

    The genesis block tells devnets of one chain id apart. Other machines are not seen.

    Raises:
        ConfigError: names the process that has the account.
    """
    genesis = await chain.block(0)
    if genesis is None:
        raise ChainError(f"{chain.shown_url} has no block 0: it is still syncing")
    path = cache_dir / "locks" / f"{account}-{genesis.hash[2:18]}.lock"
    advice = "stop that process, or use another wallet here (`fabstir keys new`)"
    with locked(path, what=f"the wallet {account}", advice=advice):
        yield
