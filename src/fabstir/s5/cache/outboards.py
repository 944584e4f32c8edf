"""Verification trees of the blobs that this node serves, built on first request.

Those of large blobs outlive the process in the cache of results: making one reads the whole blob.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Final

import anyio

from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import (
    BlobTooLarge,
    CorruptBlob,
    NotFound,
    QuotaExceeded,
    StorageFull,
)
from fabstir.s5.cache.results import MAX_VALUE_BYTES, ResultCache
from fabstir.s5.store import BlobStore
from fabstir.s5.verified.tree import build_tree
from fabstir.telemetry.waiting import KeyedLocks

MAX_CACHED_BYTES: Final = 64 << 20
"""Trees kept in memory: of 256 GB of blobs, at 256 bytes for each MiB."""

MAX_BUILDING: Final = 2
"""Trees made at once. Each takes one core, 2.8 s for a GB."""

MIN_KEPT_BYTES: Final = 16 << 20
"""Blobs from this size on have their tree kept on disk: others take less than 0.1 s."""


class Outboards:
    """Outboards by blob, the last used ones kept."""

    def __init__(self, store: BlobStore, results: ResultCache) -> None:
        self._store = store
        self._results = results
        self._cached: OrderedDict[BlobId, bytes] = OrderedDict()
        self._num_bytes = 0
        self._building = KeyedLocks()
        self._limiter = anyio.CapacityLimiter(MAX_BUILDING)

    async def get(self, blob: BlobId) -> bytes:
        """The outboard of a blob that is here; who asks for one being made waits for it.

        Raises:
            NotFound: the blob is not here, or its hash is not BLAKE3.
            CorruptBlob: its bytes have rotted.
        """
        if blob.type is not HashType.BLAKE3:
            raise NotFound("only blobs with a BLAKE3 hash have an outboard")
        async with self._building.hold(blob):
            if (outboard := self._cached.get(blob)) is None:
                outboard = await self._load(blob)
                self._keep(blob, outboard)
            self._cached.move_to_end(blob)
            return outboard

    async def _load(self, blob: BlobId) -> bytes:
        if blob.size < MIN_KEPT_BYTES:
            return await self._build(blob)
        path = f"outboards/{blob.encode()}"
        if (kept := await self._results.get(path)) is not None:
            return kept
        outboard = await self._build(blob)
        if len(outboard) <= MAX_VALUE_BYTES:
            # Without room it is made again the next time.
            with suppress(BlobTooLarge, QuotaExceeded, StorageFull):
                await self._results.put(path, outboard)
        return outboard

    async def _build(self, blob: BlobId) -> bytes:
        async with self._limiter:
            tree = await build_tree(self._store.read(blob.multihash))
        if tree.blob != blob:
            raise CorruptBlob(blob.encode(), str(self._store.folder))
        return tree.encode()

    def _keep(self, blob: BlobId, outboard: bytes) -> None:
        self._cached[blob] = outboard
        self._num_bytes += len(outboard)
        while self._num_bytes > MAX_CACHED_BYTES and len(self._cached) > 1:
            _, dropped = self._cached.popitem(last=False)
            self._num_bytes -= len(dropped)
