"""What of a wallet's money the marketplace holds, for who only looks."""

from __future__ import annotations

from dataclasses import dataclass

from fabstir.chain.contracts import Marketplace
from fabstir.primitives.ids import Address
from fabstir.sdk.rail import Committed


@dataclass(frozen=True, slots=True)
class MarketplaceReader:
    """What stands in the marketplace. See `sdk.rail.RailReader`."""

    marketplace: Marketplace

    async def committed(self, wallet: Address, token: Address) -> Committed:
        market = self.marketplace
        return Committed(
            locked=await market.locked_balance(wallet, token),
            free=await market.deposit_balance(wallet, token),
        )
