"""One process an account: two would take each other's nonces and settle each other's sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fabstir.chain.identity import genesis_hash
from fabstir.chain.rpc import Chain
from fabstir.db.lock import locked
from fabstir.primitives.ids import Address


@asynccontextmanager
async def sole_user(chain: Chain, account: Address, cache_dir: Path) -> AsyncGenerator[None]:
    """Be the only process of this user that acts for `account` on this chain, for the block.

    The genesis block tells devnets of one chain id apart. Other machines are not seen.

    Raises:
        ConfigError: names the process that has the account.
        ChainError: the node does not have its first block yet.
    """
    genesis = await genesis_hash(chain)
    path = cache_dir / "locks" / f"{account}-{genesis[2:18]}.lock"
    advice = "stop that process, or use another wallet here (`fabstir keys new`)"
    with locked(path, what=f"the wallet {account}", advice=advice):
        yield
