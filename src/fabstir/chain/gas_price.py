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
        value: wei for a unit of gas in the next block, tip included; a rollup's data fee is not in
            it. As of the last look.
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
            self.value = await _read(self._chain)
            self._looked_at = now
        return self.value


async def watch_gas_price(chain: Chain, clock: Callable[[], float]) -> GasPrice:
    """Look once; raises ChainError if the chain does not answer."""
    return GasPrice(await _read(chain), chain, clock, clock())


async def _read(chain: Chain) -> Wei:
    fees = await chain.fees()
    base = (fees.max_fee_per_gas - fees.max_priority_fee_per_gas) // 2
    return Wei(base + fees.max_priority_fee_per_gas)
