"""Verified storage locations, remembered until they expire."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from fabstir.primitives.cid import Multihash
from fabstir.s5.formats.wire import StorageLocation
from fabstir.s5.peers.limits import PeerLimits


class LocationCache:
    """Locations by blob; the blobs that were asked for longest ago are forgotten first.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, limits: PeerLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._by_blob: OrderedDict[Multihash, dict[bytes, tuple[float, StorageLocation]]] = (
            OrderedDict()
        )

    def add(self, location: StorageLocation) -> None:
        """Remember one, in place of an older one of the same node."""
        known = self._by_blob.setdefault(location.hash, {})
        self._by_blob.move_to_end(location.hash)
        if location.public_key in known or len(known) < self._limits.max_locations:
            until = min(location.expiry, self._clock() + self._limits.max_lifetime)
            known[location.public_key] = (until, location)
        if len(self._by_blob) > self._limits.max_cached_blobs:
            self._by_blob.popitem(last=False)

    def get(self, blob: Multihash) -> tuple[StorageLocation, ...]:
        """What is still valid, oldest first."""
        known = self._by_blob.get(blob)
        if known is None:
            return ()
        now = self._clock()
        for node in [node for node, (until, _) in known.items() if until <= now]:
            del known[node]
        if not known:
            del self._by_blob[blob]
            return ()
        self._by_blob.move_to_end(blob)
        return tuple(location for _, location in known.values())

    def drop(self, location: StorageLocation) -> None:
        """Forget one: it did not work."""
        self._by_blob.get(location.hash, {}).pop(location.public_key, None)

    def drop_node(self, public_key: bytes) -> None:
        """Forget everything that a node said."""
        for known in self._by_blob.values():
            known.pop(public_key, None)
