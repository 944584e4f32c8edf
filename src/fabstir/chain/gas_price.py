"""What gas costs now, for those who decide whether a transaction is worth it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fabstir.chain.rpc import Chain
from fabstir.primitives.units import Wei

MAX_AGE_SECONDS: Final = 10.0
"""Base makes five blocks in it, over which its base fee changes by a few percent at most."""


@dataclass(slots=True)
class GasPrice:
    """The price of gas on one chain. Made by `watch_gas_price`.

    Attributes:
        value: of `Chain.gas_price`, as of the last look.
    """

    value: Wei
    _chain: Chain
    _clock: Callable[[], float]
    _looked_at: float

    async def look(self) -> Wei:
        """The price, looked up again if the last look is MAX_AGE_SECONDS ago.

        Raises:
            ChainError: the chain does not answer.
        """
        now = self._clock()
        if not 0 <= now - self._looked_at < MAX_AGE_SECONDS:
            self.value = await self._chain.gas_price()
            self._looked_at = now
        return self.value


async def watch_gas_price(chain: Chain, clock: Callable[[], float]) -> GasPrice:
    """Look once; raises ChainError if the chain does not answer."""
    return GasPrice(await chain.gas_price(), chain, clock, clock())
