"""The open connections of one door: how many, whose, and which of them gives way.

Counted when they are accepted, HTTP and WebSocket alike, in all and for each address. When all
places are taken, the oldest connection of the address that has most of them gives way to a
newcomer, unless its caller has shown that it is somebody's: who pays stays. Where everybody does,
the newest one of the address that has most gives way: one address does not pay for all places.

Behind a trusted proxy a connection is its proxy's until a request on it says whom it is for.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from fabstir.primitives.rates import TokenBucket
from fabstir.web.addresses import address_group

NEW_PER_SECOND: Final = 100.0
NEW_BURST: Final = 500
"""Connections of one address: accepting and closing one costs some 0.1 ms."""

FRAMES_PER_SECOND: Final = 1000.0
FRAMES_BURST: Final = 4000.0
"""WebSocket frames of one address, pings too; who sends more is read more slowly. A renter sends
a few a second; one costs some 50 us and up."""

MAX_UNFINISHED_BYTES: Final = 64 << 20
"""Of WebSocket messages whose end has not come, all connections together. Then the address that has
most of it gives up its oldest: an honest one sends a message or two at a time."""

MAX_UNFINISHED_BYTES_PER_ADDRESS: Final = 16 << 20
"""Four of the longest messages at a time; then the oldest of that address is given up."""

SMALL_BYTES: Final = 64 * 1024
"""Unfinished messages up to this length are never given up: there are few enough connections."""

FORWARDED_FOR: Final = "fabstir.forwarded_for"
"""Where in a scope's state `OpenConnection.is_forwarded_for` is."""

AddressRange = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
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
        is_proxied: whether somebody else's address is counted as soon as it is known.
        frames: the rate of its address; its own, while that is a proxy's.
        is_proven: its caller has shown that it is somebody's, and is the last to give way.
        on_proven: told when it becomes so.
        on_unproven: told when it is so no more.
        abort: ends it at once.
        unfinished_bytes: of the message whose end has not come.
        unfinished_since: when that message began, in seconds of the clock.
    """

    key: str
    is_proxied: bool
    frames: TokenBucket
    _all: Connections
    is_proven: bool = False
    on_proven: Callable[[], None] = lambda: None
    on_unproven: Callable[[], None] = lambda: None
    abort: Callable[[], None] = lambda: None
    unfinished_bytes: int = 0
    unfinished_since: float = 0.0

    def prove(self) -> None:
        """Its caller has shown that it is somebody's."""
        if not self.is_proven:
            self.is_proven = True
            self.on_proven()

    def unprove(self) -> None:
        """What its caller has shown counts no more."""
        if self.is_proven:
            self.is_proven = False
            self.on_unproven()

    def is_forwarded_for(self, address: str) -> None:
        """A request says whose a proxy's connection is for now; another's are not."""
        if self.is_proxied:
            self.unprove()
            self._all.move(self, address)

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

    limits: DoorLimits = field(default_factory=DoorLimits)
    on_refused: Callable[[str], None] = lambda _why: None
    on_dropped: Callable[[str], None] = lambda _why: None
    monotonic: Callable[[], float] = time.monotonic
    _open: dict[OpenConnection, None] = field(default_factory=dict[OpenConnection, None])
    _by_key: Counter[str] = field(default_factory=Counter[str])
    _unfinished_by_key: Counter[str] = field(default_factory=Counter[str])
    _rates: dict[str, _Rates] = field(default_factory=dict[str, _Rates])
    _unfinished_bytes: int = 0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, address: str) -> OpenConnection | str:
        """A place for a connection that was accepted, or why there is none, in words."""
        key, is_proxy = address_group(address), self.limits.is_proxy(address)
        rates = self._rates_of(key)
        if not is_proxy:
            if (num_open := self._by_key.get(key, 0)) >= self.limits.max_per_address:
                self.on_refused("address")
                return f"{key} has {num_open} connections, the most that one address may"
            if not rates.opened.try_take():
                self.on_refused("rate")
                return f"{key} opens connections too fast"
        if len(self._open) >= self.limits.max_connections and not self._make_room(
            0 if is_proxy else self._by_key.get(key, 0)  # whose it is, a proxy says later
        ):
            self.on_refused("full")
            return "all connections that this node has are taken"
        frames = self._frame_bucket() if is_proxy else rates.frames
        connection = OpenConnection(key, is_proxy, frames, self)
        self._open[connection] = None
        self._by_key[key] += 1
        return connection

    def move(self, connection: OpenConnection, address: str) -> None:
        """Count it under another address from here on."""
        key = address_group(address)
        if connection not in self._open or key == connection.key:
            return
        num_bytes = connection.unfinished_bytes
        self._change(self._unfinished_by_key, connection.key, -num_bytes)
        self._change(self._by_key, connection.key, -1)
        connection.key = key
        is_proxy = self.limits.is_proxy(address)
        connection.frames = self._frame_bucket() if is_proxy else self._rates_of(key).frames
        self._change(self._by_key, key, 1)
        self._change(self._unfinished_by_key, key, num_bytes)

    def remove(self, connection: OpenConnection) -> None:
        """It is gone."""
        if connection not in self._open:
            return
        self.count_unfinished(connection, 0)
        del self._open[connection]
        self._change(self._by_key, connection.key, -1)

    def abort_all(self) -> None:
        """End every connection, whatever it still has to send."""
        for connection in tuple(self._open):
            connection.abort()

    def count_unfinished(self, connection: OpenConnection, num_bytes: int) -> None:
        """See `OpenConnection.has_unfinished`."""
        if connection not in self._open:
            return
        if num_bytes and not connection.unfinished_bytes:
            connection.unfinished_since = self.monotonic()
        added = num_bytes - connection.unfinished_bytes
        self._unfinished_bytes += added
        self._change(self._unfinished_by_key, connection.key, added)
        connection.unfinished_bytes = num_bytes
        key = connection.key
        while (
            self._unfinished_by_key[key] > MAX_UNFINISHED_BYTES_PER_ADDRESS
            and (oldest := self._oldest_unfinished(key)) is not None
        ):
            self._drop(oldest, "memory")
        while self._unfinished_bytes > MAX_UNFINISHED_BYTES:
            oldest = self._oldest_unfinished()
            if oldest is None:
                return
            self._drop(oldest, "memory")

    def _oldest_unfinished(self, key: str | None = None) -> OpenConnection | None:
        """Of one address; None: of the one that has most bytes of them."""
        return min(
            (
                each
                for each in self._open
                if each.unfinished_bytes > SMALL_BYTES and key in {None, each.key}
            ),
            key=lambda each: (-self._unfinished_by_key[each.key], each.unfinished_since),
            default=None,
        )

    def _make_room(self, num_own: int) -> bool:
        """Let a connection give way to an address that has `num_own`; False: none does."""
        unproven = [each for each in self._open if not each.is_proven]  # oldest first
        if unproven:
            least = num_own + 1
            given_up = max(unproven, key=lambda each: self._by_key[each.key])
        else:
            # The only place of somebody who pays is not taken, nor are two sides taking turns.
            least = num_own + 2
            newest_first = reversed(self._open)
            given_up = max(newest_first, key=lambda each: self._by_key[each.key], default=None)
        if given_up is None or self._by_key[given_up.key] < least:
            return False
        self._drop(given_up, "evicted")
        return True

    @staticmethod
    def _change(counts: Counter[str], key: str, amount: int) -> None:
        """Add, and keep nothing of who has nothing."""
        counts[key] += amount
        if not counts[key]:
            del counts[key]

    def _drop(self, connection: OpenConnection, why: str) -> None:
        self.on_dropped(why)
        self.remove(connection)
        connection.abort()

    def _frame_bucket(self) -> TokenBucket:
        return TokenBucket(FRAMES_PER_SECOND, FRAMES_BURST, self.monotonic)

    def _rates_of(self, key: str) -> _Rates:
        rates = self._rates.pop(key, None)
        if rates is None:
            rates = _Rates(
                TokenBucket(NEW_PER_SECOND, NEW_BURST, self.monotonic),
                self._frame_bucket(),
            )
        self._rates[key] = rates
        while len(self._rates) > 4 * self.limits.max_connections:
            del self._rates[next(iter(self._rates))]
        return rates
