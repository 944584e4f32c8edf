"""Who may hold one of this node's inbound connections: bookkeeping without a socket.

Nobody is refused. Whoever comes gets a place, and when there is none, one is taken from the address
that holds most of them: from a socket that never spoke before one that did, from a peer that is
doing nothing before one that is. So one address can only ever crowd out itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from fabstir.p2p.limits import (
    CONNECTION_SHARE,
    MAX_INBOUND,
    MAX_INBOUND_PER_ADDRESS,
    MAX_OUTBOUND,
    MAX_PENDING,
    MAX_PENDING_PER_ADDRESS,
    MAX_PER_PEER,
)
from fabstir.web.addresses import address_group


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections there may be at a time.

    Attributes:
        pending: inbound ones whose handshake is not finished, in all and per address group.
        inbound: finished inbound ones, in all and per address group.
        outbound: those that this node dialled.
    """

    pending: int = MAX_PENDING
    pending_per_address: int = MAX_PENDING_PER_ADDRESS
    inbound: int = MAX_INBOUND
    inbound_per_address: int = MAX_INBOUND_PER_ADDRESS
    outbound: int = MAX_OUTBOUND

    @property
    def total(self) -> int:
        """Descriptors that libp2p can hold at most, its listeners aside."""
        return self.pending + self.inbound + self.outbound

    @classmethod
    def within(cls, num_descriptors: int) -> Self:
        """Scaled down where a process may open few files, so that libp2p never takes the last."""
        full = cls()
        scale = min(1.0, num_descriptors / CONNECTION_SHARE / full.total)

        def scaled(limit: int) -> int:
            return max(2, int(limit * scale))

        return cls(
            pending=scaled(full.pending),
            pending_per_address=scaled(full.pending_per_address),
            inbound=scaled(full.inbound),
            inbound_per_address=scaled(full.inbound_per_address),
            outbound=scaled(full.outbound),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """One inbound connection's place.

    Attributes:
        abort: cuts the connection at once, without waiting for anybody.
        opened_at: when it was accepted, in seconds of the caller's clock.
        has_spoken: it sent at least one byte.
        peer_id: None until its handshake is finished.
        last_used: when it last opened a stream, or had one opened to it.
        is_busy: whether streams are open on it now.
        is_evicted: it was cut to make room.
    """

    group: str
    abort: Callable[[], None]
    opened_at: float
    last_used: float
    has_spoken: bool = False
    peer_id: bytes | None = None
    is_busy: Callable[[], bool] = bool
    is_evicted: bool = False


class InboundPlaces:
    """The places of one node, for all its listeners together."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._pending: set[Slot] = set()
        self._inbound: set[Slot] = set()
        self.num_admitted = 0
        self.num_evicted = 0

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    @property
    def num_inbound(self) -> int:
        return len(self._inbound)

    def admit(self, host: str, abort: Callable[[], None], now: float) -> Slot:
        """A place for a connection that was just accepted, at the cost of another if need be."""
        slot = Slot(group=address_group(host), abort=abort, opened_at=now, last_used=now)
        limits = self.limits
        self._bound(self._pending, slot, limits.pending_per_address, limits.pending)
        self._pending.add(slot)
        self.num_admitted += 1
        return slot

    def establish(self, slot: Slot, peer_id: bytes, is_busy: Callable[[], bool]) -> bool:
        """Its handshake is finished. Returns False if it was cut meanwhile."""
        if slot.is_evicted:
            return False
        self._pending.discard(slot)
        same_peer = [each for each in self._inbound if each.peer_id == peer_id]
        if len(same_peer) >= MAX_PER_PEER:
            self._evict(same_peer)
        slot.peer_id, slot.is_busy = peer_id, is_busy
        limits = self.limits
        self._bound(self._inbound, slot, limits.inbound_per_address, limits.inbound)
        self._inbound.add(slot)
        return True

    def release(self, slot: Slot) -> None:
        """The connection is gone. Doing it twice does no harm."""
        self._pending.discard(slot)
        self._inbound.discard(slot)

    def _bound(self, held: set[Slot], newcomer: Slot, per_address: int, total: int) -> None:
        same_group = [slot for slot in held if slot.group == newcomer.group]
        if len(same_group) >= per_address:
            self._evict(same_group)
        if len(held) >= total:
            [(largest, _)] = Counter(slot.group for slot in held).most_common(1)
            self._evict(slot for slot in held if slot.group == largest)

    def _evict(self, slots: Iterable[Slot]) -> None:
        """Cut the least useful one."""
        victim = min(slots, key=_usefulness)
        victim.is_evicted = True
        self.release(victim)
        self.num_evicted += 1
        victim.abort()


def _usefulness(slot: Slot) -> tuple[bool, bool, float]:
    return (slot.has_spoken, slot.is_busy(), slot.last_used)
