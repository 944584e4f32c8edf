"""One owner's view of the store, as the port that file system and caches are written against."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.s5.store.store import BlobStore


class LocalBlobs:
    """Implements `ports.Blobs`: every put is pinned for this owner."""

    def __init__(self, store: BlobStore, owner: str) -> None:
        self.store = store
        self.owner = owner

    async def put(
        self, data: bytes | AsyncIterable[bytes], *, reason: str, may_use_reserve: bool = False
    ) -> BlobId:
        """Store and pin, durably. Raises as `BlobStore.put`."""
        return await self.store.put(
            data, owner=self.owner, reason=reason, may_use_reserve=may_use_reserve
        )

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """A whole blob, verified. Raises as `BlobStore.get`."""
        return await self.store.get(blob, max_bytes=max_bytes)

    def read(self, blob: BlobId, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """A part of a blob, in verified pieces. Raises as `BlobStore.read`."""
        return self.store.read(blob.multihash, start, end)

    async def release(self, blobs: Iterable[Multihash]) -> None:
        """Drop this owner's pins."""
        await self.store.unpin(self.owner, blobs)

    async def relabel(self, blobs: Iterable[Multihash], *, reason: str) -> None:
        """See `ports.Blobs`."""
        await self.store.relabel(self.owner, blobs, reason=reason)
