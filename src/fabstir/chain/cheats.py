"""What only a development chain can do: anvil's own RPC methods."""

from __future__ import annotations

from fabstir.chain.rpc import Chain
from fabstir.primitives.ids import Address
from fabstir.primitives.units import Wei


async def set_balance(chain: Chain, account: Address, amount: Wei) -> None:
    """Give an account native coin from nowhere."""
    await chain.request("anvil_setBalance", [account, hex(amount)])


async def set_interval_mining(chain: Chain, seconds: int) -> None:
    """Make blocks by the clock alone."""
    await chain.request("evm_setIntervalMining", [seconds])


async def set_next_base_fee(chain: Chain, fee: Wei) -> None:
    """Wei a gas in the next block; the ones behind it go on from there."""
    await chain.request("anvil_setNextBlockBaseFeePerGas", [hex(fee)])
