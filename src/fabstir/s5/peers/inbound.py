"""Slots for peers that dial in: how many, for whom, and which of them gives way.

An idle connection costs a stranger nothing, so none is kept for it: who has said nothing yet gives
way at once, longest first, and who was of use once gives way when that is long ago. An address has
only so many places, so that it crowds out itself before others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.session import PeerSession

GAVE_WAY = "other peers need the place, and this one was idle: connect again"


class PeerPlaces:
    """Who has a place."""

    def __init__(self, limits: PeerLimits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._taken: set[PeerSession] = set()

    def __len__(self) -> int:
        return len(self._taken)

    def make_room(self, address: str) -> str:
        """See that there is a place for one more of an address, an idle peer's if there is no
        other. Nobody else may take it before `enter` does.

        Returns:
            "", or why there is none.
        """
        counts = Counter(session.address for session in self._taken)
        if counts[address] >= self._limits.max_inbound_per_address:
            full, addresses = f"{counts[address]} peers of this address are", {address}
        elif len(self._taken) >= self._limits.max_inbound:
            full = f"{len(self._taken)} peers are"
            most = max(counts.values())
            addresses = {name for name, count in counts.items() if count == most}
        else:
            return ""
        idle = self._most_idle(addresses)
        if idle is None:
            return f"{full} connected, and all are busy: try again later"
        self.leave(idle)
        idle.close(GAVE_WAY)
        return ""

    def enter(self, session: PeerSession) -> None:
        """Take the place that was made."""
        self._taken.add(session)

    def leave(self, session: PeerSession) -> None:
        """Its place is free; it may have given way before."""
        self._taken.discard(session)

    def _most_idle(self, addresses: set[str]) -> PeerSession | None:
        now = self._monotonic()
        idle = [
            session
            for session in self._taken
            if session.address in addresses
            and (not session.is_known or now - session.last_use >= self._limits.idle_seconds)
        ]
        return min(idle, key=lambda session: (session.is_known, session.last_use), default=None)
