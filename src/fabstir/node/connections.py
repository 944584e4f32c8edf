"""The open connections of one door: how many, whose, and which of them gives way.

Counted when they are accepted, HTTP and WebSocket alike, in all and for each address. When all
places are taken, the oldest connection of the address that has most of them gives way to a
newcomer, unless its caller has shown that it is somebody's: who pays stays.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from fabstir.api.rates import remote_key
from fabstir.primitives.rates import TokenBucket

NEW_PER_SECOND: Final = 100.0
NEW_BURST: Final = 500
"""Connections of one address: accepting and closing one costs some 0.1 ms."""

FRAMES_PER_SECOND: Final = 1000.0
FRAMES_BURST: Final = 4000.0
"""WebSocket frames of one address, pings too; who sends more is read more slowly. A renter sends
a few a second; one costs some 50 us and up."""

MAX_UNFINISHED_BYTES: Final = 64 << 20
"""Of WebSocket messages whose end has not come, all connections together. Then the oldest of them
is given up: honest ones are young."""

SMALL_BYTES: Final = 64 * 1024
"""Unfinished messages up to this length are never given up: there are few enough connections."""

AddressRange = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What strangers may have of one door.

    Attributes:
        max_connections: in all.
        max_per_address: of one IPv4 address, or of one IPv6 network of 64 bits.
        trusted_proxies: whose connections are counted by the address that they forward for.
    """

    max_connections: int = 1024
    max_per_address: int = 64
    trusted_proxies: tuple[AddressRange, ...] = ()

    def is_proxy(self, address: str) -> bool:
        """Whether connections from there are other people's."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.trusted_proxies)


def parse_proxies(texts: Sequence[str]) -> tuple[AddressRange, ...]:
    """Addresses and networks as the settings have them; the settings have checked them."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


@dataclass(eq=False, slots=True)
class OpenConnection:
    """One of them. Made by `Connections.admit`.

    Attributes:
        key: what its address is counted under.
        is_counted: whether for its address, too; not for a proxy's.
        frames: the rate of its address.
        is_proven: its caller has shown that it is somebody's, and is not made to give way.
        on_proven: told once.
        abort: ends it at once.
        unfinished_bytes: of the message whose end has not come.
        unfinished_since: when that message began, in seconds of the clock.
    """

    key: str
    is_counted: bool
    frames: TokenBucket
    _all: Connections
    is_proven: bool = False
    on_proven: Callable[[], None] = lambda: None
    abort: Callable[[], None] = lambda: None
    unfinished_bytes: int = 0
    unfinished_since: float = 0.0

    def prove(self) -> None:
        """Its caller has shown that it is somebody's."""
        if not self.is_proven:
            self.is_proven = True
            self.on_proven()

    def has_unfinished(self, num_bytes: int) -> None:
        """So much of a message has come, without its end; 0: there is no such message."""
        self._all.count_unfinished(self, num_bytes)

    def leave(self) -> None:
        """It is gone: somebody else has its place."""
        self._all.remove(self)


@dataclass(slots=True)
class _Rates:
    """Of one address."""

    opened: TokenBucket
    frames: TokenBucket


@dataclass(eq=False, slots=True)
class Connections:
    """The connections of one door.

    Args:
        on_refused: told why, each time: "address", "rate" or "full".
        on_dropped: told why, each time: "evicted" or "memory".
    """

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    on_refused: Callable[[str], None] = lambda _why: None
    on_dropped: Callable[[str], None] = lambda _why: None
    monotonic: Callable[[], float] = time.monotonic
    _open: dict[OpenConnection, None] = field(default_factory=dict[OpenConnection, None])
    _by_key: Counter[str] = field(default_factory=Counter[str])
    _rates: dict[str, _Rates] = field(default_factory=dict[str, _Rates])
    _unfinished_bytes: int = 0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, address: str) -> OpenConnection | str:
        """A place for a connection that was accepted, or why there is none, in words."""
        key, is_proxy = remote_key(address), self.limits.is_proxy(address)
        rates = self._rates_of(key)
        if not is_proxy:
            if (num_open := self._by_key.get(key, 0)) >= self.limits.max_per_address:
                self.on_refused("address")
                return f"{key} has {num_open} connections, the most that one address may"
            if not rates.opened.try_take():
                self.on_refused("rate")
                return f"{key} opens connections too fast"
        if len(self._open) >= self.limits.max_connections and not self._make_room(key):
            self.on_refused("full")
            return "all connections that this node has are taken"
        connection = OpenConnection(key, not is_proxy, rates.frames, self)
        self._open[connection] = None
        if connection.is_counted:
            self._by_key[key] += 1
        return connection

    def remove(self, connection: OpenConnection) -> None:
        """It is gone."""
        if connection not in self._open:
            return
        del self._open[connection]
        self.count_unfinished(connection, 0)
        if connection.is_counted:
            self._by_key[connection.key] -= 1
            if not self._by_key[connection.key]:
                del self._by_key[connection.key]

    def abort_all(self) -> None:
        """End every connection, whatever it still has to send."""
        for connection in tuple(self._open):
            connection.abort()

    def count_unfinished(self, connection: OpenConnection, num_bytes: int) -> None:
        """See `OpenConnection.has_unfinished`."""
        if num_bytes and not connection.unfinished_bytes:
            connection.unfinished_since = self.monotonic()
        self._unfinished_bytes += num_bytes - connection.unfinished_bytes
        connection.unfinished_bytes = num_bytes
        while self._unfinished_bytes > MAX_UNFINISHED_BYTES:
            oldest = min(
                (each for each in self._open if each.unfinished_bytes > SMALL_BYTES),
                key=lambda each: each.unfinished_since,
                default=None,
            )
            if oldest is None:
                return
            self._drop(oldest, "memory")

    def _make_room(self, key: str) -> bool:
        """Let a connection give way; False: none does."""
        unproven = (each for each in self._open if not each.is_proven)  # oldest first
        oldest = max(unproven, key=lambda each: self._by_key.get(each.key, 0), default=None)
        if oldest is None or self._by_key.get(oldest.key, 0) <= self._by_key.get(key, 0):
            return False
        self._drop(oldest, "evicted")
        return True

    def _drop(self, connection: OpenConnection, why: str) -> None:
        self.on_dropped(why)
        self.remove(connection)
        connection.abort()

    def _rates_of(self, key: str) -> _Rates:
        rates = self._rates.pop(key, None)
        if rates is None:
            rates = _Rates(
                TokenBucket(NEW_PER_SECOND, NEW_BURST, self.monotonic),
                TokenBucket(FRAMES_PER_SECOND, FRAMES_BURST, self.monotonic),
            )
        self._rates[key] = rates
        while len(self._rates) > 4 * self.limits.max_connections:
            del self._rates[next(iter(self._rates))]
        return rates
