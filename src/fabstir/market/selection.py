"""Which host to take: by what it asks, how fast it answers, and how it served this wallet before.

One number decides, and it is a price: a host's own, raised by a share for each second of its
latency, and by another for a host that this wallet does not know. So a renter who knows what
waiting is worth to it can say so, and nothing else is weighed in secret. Hosts that went silent
with this wallet come last, whatever they ask; those that charged more than was agreed to are not
taken at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from fabstir.primitives.ids import Address
from fabstir.primitives.units import PricePerToken

LATENCY_SHARE_PER_SECOND: Final = 100
"""Percent by which one second of round trip makes a host's price worse: 100 ms count as 10 %."""

UNKNOWN_SHARE: Final = 10
"""Percent by which a host that never served this wallet looks dearer: a known one keeps its renter
unless it is undercut by more, and a new one is tried as soon as it is."""

_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHistory:
    """How a host's settled sessions with this wallet ended.

    Attributes:
        num_served: tokens were delivered, agreed to, and no more was charged.
        num_silent: it let its proof window pass without claiming what was agreed to.
        num_overcharged: it was paid for more than was agreed to.
    """

    num_served: int = 0
    num_silent: int = 0
    num_overcharged: int = 0

    @property
    def is_silent(self) -> bool:
        """It fails more often than it serves."""
        return self.num_silent > self.num_served


UNKNOWN: Final = HostHistory()
"""Of a host that this wallet had no session with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A host that could serve.

    Attributes:
        price_per_token: on chain, in the renter's payment token.
        latency: seconds of one round trip to its door, measured now.
        history: how it served this wallet before.
    """

    host: Address
    price_per_token: PricePerToken
    latency: float
    history: HostHistory = UNKNOWN

    def effective_price(self, latency_share: int = LATENCY_SHARE_PER_SECOND) -> int:
        """The price with all that counts in it, in 10^-10 of the price's own unit."""
        microseconds = round(self.latency * _MICROSECONDS)
        unknown_share = 0 if self.history.num_served else UNKNOWN_SHARE
        waited = self.price_per_token * (100 * _MICROSECONDS + latency_share * microseconds)
        return waited * (100 + unknown_share)


def rank(
    candidates: Iterable[Candidate], *, latency_share: int = LATENCY_SHARE_PER_SECOND
) -> tuple[Candidate, ...]:
    """The best first; equals in the order of their addresses, so that the order is one.

    Args:
        latency_share: percent of the price for each second; 0 looks at prices alone.
    """

    def order(candidate: Candidate) -> tuple[bool, int, Address]:
        price = candidate.effective_price(latency_share)
        return candidate.history.is_silent, price, candidate.host

    return tuple(sorted(candidates, key=order))


def choose(
    registered: Sequence[Address],
    *,
    known: Collection[Address],
    announced: Collection[Address],
    limit: int,
    random: Random,
) -> tuple[Address, ...]:
    """Which of many registered hosts to look at: a share of each source, so that none crowds out
    the others.

    Args:
        registered: all of them. Stakes make them dear, not impossible, to multiply.
        known: served this wallet well; at most a quarter of the places.
        announced: the DHT says that they are online; at most three eighths.
        limit: places in all. The rest is drawn from everybody.
    """
    chosen: list[Address] = []
    for source, places in ((known, limit // 4), (announced, 3 * limit // 8), (registered, limit)):
        wanted = set(source).difference(chosen)
        pool = [host for host in registered if host in wanted]
        chosen += random.sample(pool, min(places, limit - len(chosen), len(pool)))
    return tuple(chosen)
