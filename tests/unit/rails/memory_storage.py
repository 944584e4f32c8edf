"""Blobs and registry entries in memory, behind the ports of S5, on a disk that may be full."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, field

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import NotFound, StorageFull
from fabstir.s5.formats.registry import SignedEntry


@dataclass(slots=True)
class MemoryBlobs:
    """See `fabstir.s5.ports.Blobs`.

    Attributes:
        num_refused: so many of the next puts find the disk full.
    """

    num_refused: int = 0
    num_puts: int = 0
    _blobs: dict[Multihash, bytes] = field(default_factory=dict[Multihash, bytes])

    async def put(
        self, data: bytes | AsyncIterable[bytes], *, reason: str, may_use_reserve: bool = False
    ) -> BlobId:
        if self.num_refused:
            self.num_refused -= 1
            raise StorageFull("the disk is full")
        whole = data if isinstance(data, bytes) else b"".join([piece async for piece in data])
        blob = BlobId(NATIVE.blake3(whole), len(whole))
        self._blobs[blob.multihash] = whole
        self.num_puts += 1
        return blob

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        if blob not in self._blobs:
            raise NotFound("there is no such blob")
        return self._blobs[blob]

    async def read(
        self, blob: BlobId, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        yield (await self.get(blob.multihash, max_bytes=blob.size))[start:end]

    async def release(self, blobs: Iterable[Multihash]) -> None:
        for blob in blobs:
            self._blobs.pop(blob, None)

    async def relabel(self, blobs: Iterable[Multihash], *, reason: str) -> None:
        """No reasons are kept."""


@dataclass(slots=True)
class MemoryRegistry:
    """See `fabstir.s5.ports.EntryRegistry`."""

    _entries: dict[bytes, SignedEntry] = field(default_factory=dict[bytes, SignedEntry])

    async def get(self, public_key: bytes) -> SignedEntry | None:
        return self._entries.get(public_key)

    async def set(self, entry: SignedEntry) -> None:
        self._entries[entry.public_key] = entry
