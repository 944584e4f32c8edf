"""A cache of the registry entries most recently read or set."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from fabstir.s5.formats.registry import SignedEntry

_MAX_KEYS: Final = 10_000
"""Some 5 MB. Every look at a path asks for each directory on the way: from memory that takes
microseconds, from the database a quarter of a millisecond."""


class NewestEntries:
    """By public key, the last used ones; None: the key has no entry.

    Attributes:
        num_sets: how many writes have ended. What was read while it changed may be old already,
            and is not to be remembered.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, SignedEntry | None] = OrderedDict()
        self.num_sets = 0

    def __contains__(self, public_key: bytes) -> bool:
        return public_key in self._entries

    def __getitem__(self, public_key: bytes) -> SignedEntry | None:
        self._entries.move_to_end(public_key)
        return self._entries[public_key]

    def __setitem__(self, public_key: bytes, entry: SignedEntry | None) -> None:
        self._entries[public_key] = entry
        self._entries.move_to_end(public_key)
        if len(self._entries) > _MAX_KEYS:
            self._entries.popitem(last=False)

    def forget(self, public_key: bytes) -> None:
        """A write of this key has ended, in whatever way."""
        self.num_sets += 1
        self._entries.pop(public_key, None)
