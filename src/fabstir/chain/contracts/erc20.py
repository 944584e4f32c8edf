"""ERC-20 tokens: FAB for stakes, USDC (or any accepted one) for deposits."""

from __future__ import annotations

from fabstir.chain.contracts._contract import Contract
from fabstir.chain.records import ContractCall
from fabstir.primitives.ids import Address
from fabstir.primitives.units import Wei


class Erc20(Contract):
    """The part of ERC-20 that we use."""

    artifact = "TestFab"  # its ABI is ERC-20's

    async def balance(self, account: Address) -> Wei:
        """In the token's smallest unit."""
        return Wei(await self._read_one("balanceOf", account))

    async def allowance(self, owner: Address, spender: Address) -> Wei:
        """How much the spender may still take from the owner."""
        return Wei(await self._read_one("allowance", owner, spender))

    async def decimals(self) -> int:
        """How many digits of the smallest unit make one token."""
        return int(await self._read_one("decimals"))

    async def symbol(self) -> str:
        """The token's own name for itself; anybody's text."""
        return str(await self._read_one("symbol"))

    def approve(self, spender: Address, amount: Wei) -> ContractCall:
        """Let a contract take up to `amount` from the sender."""
        return self._call(f"approving {amount} for {spender}", "approve", spender, amount)
