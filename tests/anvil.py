"""What tests do to a development chain, beside `fabstir.chain.cheats`: anvil's own RPC methods."""

from __future__ import annotations

from fabstir.chain.rpc import Chain
from fabstir.primitives.ids import Address


async def set_code(chain: Chain, account: Address, code: bytes) -> None:
    """Make an account another contract, with the same storage."""
    await chain.request("anvil_setCode", [account, "0x" + code.hex()])


async def mine(chain: Chain, num_blocks: int = 1) -> None:
    """Make blocks; the first takes what is pending."""
    await chain.request("anvil_mine", [hex(num_blocks)], is_idempotent=False)


async def set_automine(chain: Chain, *, enabled: bool) -> None:
    """Whether each transaction is mined at once."""
    await chain.request("evm_setAutomine", [enabled])


async def increase_time(chain: Chain, seconds: int) -> None:
    """Move the chain's clock on, and make a block, so that every reader sees it."""
    await chain.request("evm_increaseTime", [hex(seconds)], is_idempotent=False)
    await mine(chain)


async def snapshot(chain: Chain) -> str:
    """Remember the state; `revert_to` takes what this returns, once."""
    return str(await chain.request("evm_snapshot", is_idempotent=False))


async def revert_to(chain: Chain, snapshot_id: str) -> None:
    """Take back everything since the snapshot, blocks included."""
    await chain.request("evm_revert", [snapshot_id], is_idempotent=False)


async def reorg(chain: Chain, depth: int) -> None:
    """Replace the last `depth` blocks by as many empty ones."""
    await chain.request("anvil_reorg", [depth, []], is_idempotent=False)
