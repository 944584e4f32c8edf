"""Which host to take: by what it asks, and by how fast it answers.

One number decides, and it is a price: a host's own, raised by a share for each second of its
latency. So a renter who knows what waiting is worth to it can say so, and nothing else is
weighed in secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fabstir.primitives.ids import Address
from fabstir.primitives.units import PricePerToken

LATENCY_SHARE_PER_SECOND: Final = 100
"""Percent by which one second of round trip makes a host's price worse: 100 ms count as 10 %."""

_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A host that could serve.

    Attributes:
        price_per_token: on chain, in the renter's payment token.
        latency: seconds of one round trip to its door, measured now.
    """

    host: Address
    price_per_token: PricePerToken
    latency: float

    def effective_price(self, latency_share: int = LATENCY_SHARE_PER_SECOND) -> int:
        """The price with its latency counted in, in 10^-8 of the price's own unit."""
        microseconds = round(self.latency * _MICROSECONDS)
        return self.price_per_token * (100 * _MICROSECONDS + latency_share * microseconds)


def rank(
    candidates: Iterable[Candidate], *, latency_share: int = LATENCY_SHARE_PER_SECOND
) -> tuple[Candidate, ...]:
    """The best first; equals in the order of their addresses, so that the order is one.

    Args:
        latency_share: percent of the price for each second; 0 looks at prices alone.
    """
    return tuple(sorted(candidates, key=lambda c: (c.effective_price(latency_share), c.host)))
