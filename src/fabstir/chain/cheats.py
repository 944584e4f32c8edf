"""What only a development chain can do: anvil's own RPC methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio

from fabstir.chain.records import ContractCall, TransactionReceipt
from fabstir.chain.rpc import Chain
from fabstir.primitives.errors import ChainError
from fabstir.primitives.ids import Address, Hash32, parse_hash32
from fabstir.primitives.units import Wei

_POLL_SECONDS: Final = 0.01
_NUM_LOOKS: Final = 3000
"""30 s at least, for a machine that is busy."""


async def set_balance(chain: Chain, account: Address, amount: Wei) -> None:
    """Give an account native coin from nowhere."""
    await chain.request("anvil_setBalance", [account, hex(amount)])


async def set_interval_mining(chain: Chain, seconds: int) -> None:
    """Make blocks by the clock alone."""
    await chain.request("evm_setIntervalMining", [seconds])


async def set_next_base_fee(chain: Chain, fee: Wei) -> None:
    """Wei a gas in the next block; the ones behind it go on from there."""
    await chain.request("anvil_setNextBlockBaseFeePerGas", [hex(fee)])


async def send_as(
    chain: Chain, account: Address, calls: Sequence[ContractCall], *, max_fee: Wei
) -> None:
    """Send calls in the name of an account, without its key and without a journal.

    A tenth of the work of a transaction queue, for what is gone with the chain anyway.

    Args:
        max_fee: wei a gas at most. Not left to anvil, whose tip may be above its own bound.

    Raises:
        ChainError: the chain refused or reverted one, or did not mine it.
    """
    fees = {"maxFeePerGas": hex(max_fee), "maxPriorityFeePerGas": "0x0"}
    sent: list[Hash32] = []
    await chain.request("anvil_impersonateAccount", [account])
    for call in calls:
        asked = {"from": account, "to": call.to, "data": "0x" + call.data.hex(), **fees}
        tx_hash = await chain.request("eth_sendTransaction", [asked], is_idempotent=False)
        sent.append(parse_hash32(str(tx_hash)))
    await chain.request("anvil_stopImpersonatingAccount", [account])
    for call, tx_hash in zip(calls, sent, strict=True):
        receipt = await _mined(chain, tx_hash)
        if receipt is None or not receipt.is_success:
            raise ChainError(f"{chain.shown_url} did not do what it was told: {call.description}")


async def _mined(chain: Chain, tx_hash: Hash32) -> TransactionReceipt | None:
    """The receipt of a transaction that is mined at once, which is some milliseconds later."""
    for _ in range(_NUM_LOOKS):
        receipt = await chain.receipt(tx_hash)
        if receipt is not None:
            return receipt
        await anyio.sleep(_POLL_SECONDS)
    return None
