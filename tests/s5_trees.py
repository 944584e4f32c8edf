"""Trees of S5 in memory: blobs by their real hash, and coroutines driven without an event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from fabstir.crypto import NATIVE
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.directory import DirectoryEntry
from fabstir.s5.formats.hamt import Load, entries, lookup_many

T = TypeVar("T")


class Blobs(dict[bytes, bytes]):
    """Nodes by their hash; remembers which were loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[bytes] = []

    async def store(self, data: bytes) -> bytes:
        link = NATIVE.blake3(data)
        self[link] = data
        return link

    async def load(self, link: bytes) -> bytes:
        self.loaded.append(link)
        return self[link]


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing outside of Python."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the coroutine waits for an event loop")


async def lookup(
    root: bytes, key: str, load: Load, crypto: Crypto = NATIVE
) -> DirectoryEntry | None:
    """The entry of one key, asked for alone; None: there is none."""
    return (await lookup_many(root, [key], load, crypto)).get(key)


async def listed(
    root: bytes, load: Load, after: str | None = None
) -> list[tuple[str, DirectoryEntry]]:
    """All entries, in the order of `entries`."""
    return [item async for item in entries(root, load, NATIVE, after=after)]
