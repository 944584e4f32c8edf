"""How often somebody may call: a bucket of tokens for each key, of which only so many are kept."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from fabstir.primitives.errors import Busy

_IPV6_NETWORK_BITS = 64
"""What one household has: counting single addresses of it would count nothing."""


class Rates:
    """Token buckets; the one that was used longest ago gives way when there are too many."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        *,
        num_keys: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._num_keys = num_keys
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str) -> None:
        """Count one call.

        Raises:
            Busy: too many, with the seconds until the next one is taken.
        """
        tokens = self._tokens(key)
        is_allowed = tokens >= 1.0
        self._keep(key, tokens - is_allowed)
        if not is_allowed:
            raise self._busy(tokens)

    def require(self, key: str) -> None:
        """Raises Busy where a call would not be taken now; it is not counted."""
        if (tokens := self._tokens(key)) < 1.0:
            raise self._busy(tokens)

    def charge(self, key: str) -> None:
        """Count a call that was let in by `require`: several at once may leave less than nothing,
        which has to be made up for first.
        """
        self._keep(key, self._tokens(key) - 1.0)

    def _tokens(self, key: str) -> float:
        now = self._clock()
        tokens, before = self._buckets.get(key, (float(self._burst), now))
        return min(float(self._burst), tokens + (now - before) * self._per_second)

    def _keep(self, key: str, tokens: float) -> None:
        self._buckets[key] = (tokens, self._clock())
        self._buckets.move_to_end(key)
        while len(self._buckets) > self._num_keys:
            self._buckets.popitem(last=False)

    def _busy(self, tokens: float) -> Busy:
        wait = (1.0 - tokens) / self._per_second
        return Busy("too many requests from this address", retry_after=wait)


class Slots:
    """How many things one key may have going on at once."""

    def __init__(self, num_slots: int, what: str) -> None:
        self._num_slots = num_slots
        self._what = what
        self._taken: dict[str, int] = {}

    @contextmanager
    def hold(self, key: str) -> Generator[None]:
        """Be one of them for the length of the block.

        Raises:
            Busy: there are too many.
        """
        taken = self._taken.get(key, 0)
        if taken >= self._num_slots:
            raise Busy(f"{key} has {taken} {self._what} at once", retry_after=1.0)
        self._taken[key] = taken + 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]


def remote_key(address: str) -> str:
    """Under what a remote address is counted: IPv6 by network, what is no address as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    mapped = parsed.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    return str(ipaddress.ip_network((int(parsed), _IPV6_NETWORK_BITS), strict=False))
