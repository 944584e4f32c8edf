"""Peers and portals together, as one source: a large blob comes from all that have it at once."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import httpx
from anyio import to_thread

from fabstir.db.files import make_private_folder
from fabstir.primitives.cid import BlobId, HashType, Multihash
from fabstir.primitives.errors import ConfigError, NotFound, PortalLied, StorageError
from fabstir.s5.formats.wire import StorageLocation
from fabstir.s5.peers import Peers
from fabstir.s5.portals import PortalPool
from fabstir.s5.transfer.fetch import BlobSource, fetch_blob

_logger = logging.getLogger(__name__)

LARGE_BYTES: Final = 4 << 20
"""Longer blobs are fetched in parallel, group by group, into a file; shorter ones at once."""


class Swarm:
    """What peers have, and of large blobs also what portals have.

    Where only portals are known, or a blob is small, this source has what peers say and nothing
    else: the pool of portals is the next source.
    """

    def __init__(
        self, peers: Peers, pool: PortalPool, client: httpx.AsyncClient, folder: Path
    ) -> None:
        """
        Args:
            folder: for what is being fetched; a fetch that a kill ended goes on from there.
        """
        self._peers = peers
        self._pool = pool
        self._client = client
        self._folder = folder

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """As of `ports.Blobs`, from peers."""
        self._require_peers(blob)
        return await self._peers.get(blob, max_bytes=max_bytes)

    async def read(
        self, blob: BlobId, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes]:
        """As of `ports.Blobs`, from peers: for what is not so long that `fetch` takes it."""
        data = await self.get(blob.multihash, max_bytes=blob.size)
        yield data[start:end]

    async def fetch(self, blob: BlobId) -> Path | None:
        """As `node.FileSource.fetch`: a large blob, from peers and portals at once."""
        if blob.size <= LARGE_BYTES or blob.type is not HashType.BLAKE3:
            return None
        file = self._folder / blob.digest.hex()
        await to_thread.run_sync(lambda: make_private_folder(self._folder))
        await self._fetch(blob, file)
        return file

    def _require_peers(self, blob: Multihash) -> None:
        """A node that neither dials anybody nor was dialled has nobody to wait for."""
        if not self._peers.status():
            raise NotFound(f"no peer is known that may have blob {blob.to_bytes().hex()}")

    async def sources(self, blob: BlobId) -> list[BlobSource]:
        """Where a blob may be now: what peers say, and every portal."""
        return [*(source for _, source in await self._locations(blob)), *self._portals(blob)]

    async def _locations(self, blob: BlobId) -> list[tuple[StorageLocation, BlobSource]]:
        return [
            (location, source)
            for location in await self._peers.find(blob.multihash)
            if (source := self._source_of(location)) is not None
        ]

    def _source_of(self, location: StorageLocation) -> BlobSource | None:
        is_strangers = not self._peers.is_own_place(location)
        try:
            return BlobSource.location(location.parts[0], is_strangers=is_strangers)
        except ConfigError:
            return None

    def _portals(self, blob: BlobId) -> list[BlobSource]:
        return [
            BlobSource.portal(portal.url, blob, token=portal.session.token, only_stored=True)
            for portal in self._pool.portals
        ]

    async def _fetch(self, blob: BlobId, file: Path) -> None:
        locations = await self._locations(blob)
        sources = [*(source for _, source in locations), *self._portals(blob)]
        if not sources:
            raise NotFound(f"no peer says where blob {blob.encode()} is")

        def drop(name: str, error: StorageError) -> None:
            _logger.info("a source is dropped", extra={"source": name, "reason": str(error)})
            for location, source in locations:
                if source.name != name:
                    continue
                if isinstance(error, PortalLied):
                    self._peers.report_bad(location)
                else:
                    self._peers.report_unreachable(location)

        await fetch_blob(blob, sources, file, client=self._client, on_dropped=drop)
