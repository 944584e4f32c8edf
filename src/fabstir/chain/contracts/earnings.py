"""HostEarnings: what hosts were paid and have not withdrawn."""

from __future__ import annotations

from fabstir.chain.contracts._contract import Contract
from fabstir.chain.records import ContractCall
from fabstir.primitives.ids import Address
from fabstir.primitives.units import Wei


class HostEarnings(Contract):
    """Pull payments for hosts."""

    artifact = "HostEarnings"

    async def balance(self, host: Address, token: Address) -> Wei:
        """What the host can withdraw in a token (NATIVE_TOKEN for the coin)."""
        return Wei(await self._read_one("getBalance", host, token))

    def withdraw_all(self, token: Address) -> ContractCall:
        """Send the sender everything it has earned in a token."""
        return self._call(f"withdrawing the earnings in {token}", "withdrawAll", token)

    def withdraw(self, amount: Wei, token: Address) -> ContractCall:
        """Send the sender a part of its earnings."""
        return self._call(f"withdrawing {amount} of {token}", "withdraw", amount, token)
