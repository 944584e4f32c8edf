"""The revisions of registry entries that this process has seen."""

from __future__ import annotations

from collections import OrderedDict

_MAX_KEYS_REMEMBERED = 10_000
"""Registry keys whose revision is remembered: some 2 MB."""


class Revisions:
    """The newest revisions that were seen, so that an older one is known for a replay."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    def newest(self, public_key: bytes) -> int:
        """-1: none was seen."""
        return self._seen.get(public_key, -1)

    def note(self, public_key: bytes, revision: int) -> None:
        """Remember; the keys that were longest unused are forgotten."""
        self._seen[public_key] = max(revision, self.newest(public_key))
        self._seen.move_to_end(public_key)
        if len(self._seen) > _MAX_KEYS_REMEMBERED:
            self._seen.popitem(last=False)
