"""Which peers are avoided, and until when.

Only what is attributable counts against a node's key: a location that it signed. Nothing ties a
connection to the key that its handshake named (whoever passes challenges on can borrow one), so
for broken frames it is the dialled URL that is avoided, and an inbound connection is closed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_MAX_REMEMBERED = 4096
_MAX_SECONDS = 86_400.0
_STRIKES = 3
"""Small faults, such as an expired location, before somebody is avoided: clocks differ."""


@dataclass(slots=True)
class _Record:
    strikes: int = 0
    num_bans: int = 0
    until: float = 0.0


class Standing:
    """Faults by node key (bytes) or URL (text); the oldest are forgotten first."""

    def __init__(self, avoid_seconds: float, monotonic: Callable[[], float]) -> None:
        self._avoid_seconds = avoid_seconds
        self._monotonic = monotonic
        self._records: OrderedDict[bytes | str, _Record] = OrderedDict()

    def seconds_avoided(self, who: bytes | str) -> float:
        """How much longer; 0: not at all."""
        record = self._records.get(who)
        return max(0.0, record.until - self._monotonic()) if record else 0.0

    def is_avoided(self, who: bytes | str) -> bool:
        return self.seconds_avoided(who) > 0

    def lied(self, who: bytes | str) -> None:
        """Avoid it from now on: for longer each time."""
        record = self._record(who)
        seconds = min(_MAX_SECONDS, self._avoid_seconds * 2 ** min(record.num_bans, 16))
        record.num_bans += 1
        record.strikes = 0
        record.until = self._monotonic() + seconds

    def strike(self, who: bytes | str) -> bool:
        """A fault that may be honest; returns whether it was one too many."""
        record = self._record(who)
        record.strikes += 1
        if record.strikes < _STRIKES:
            return False
        self.lied(who)
        return True

    def served(self, who: bytes | str) -> None:
        """It gave what it promised: small faults are forgotten."""
        if who in self._records:
            self._records[who].strikes = 0

    def _record(self, who: bytes | str) -> _Record:
        record = self._records.setdefault(who, _Record())
        self._records.move_to_end(who)
        if len(self._records) > _MAX_REMEMBERED:
            self._records.popitem(last=False)
        return record
