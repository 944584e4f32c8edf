"""Fetches one large blob from several untrusted places at once.

Ranges come from all sources in parallel, and every group of 256 KiB is verified against the blob's
hash before it counts (`verified`): a source that lies is found out at its first wrong group and
dropped by name, while the others go on. Where no source has the blob's outboard, the blob is
fetched whole from one after the other, and verified at its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import httpx
from anyio import from_thread, to_thread

from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import (
    CorruptBlob,
    FetchFailed,
    HashMismatch,
    NotFound,
    PortalError,
    PortalLied,
    PortalUnavailable,
    StorageError,
)
from fabstir.protocol.crypto import Crypto
from fabstir.s5.portals.http import DEFAULT_PATIENCE, PortalPatience
from fabstir.s5.portals.retrying import keep_trying
from fabstir.s5.transfer._group_fetch import GroupFetch, Report
from fabstir.s5.transfer._part import PartFile, open_part
from fabstir.s5.transfer._runs import Runs
from fabstir.s5.transfer._sources import BlobSource, SourceReader
from fabstir.s5.verified.tree import GroupTree, num_groups

__all__ = ["BlobSource", "Fetched", "OnBytesVerified", "OnDropped", "fetch_blob", "read_whole"]

_LOG = logging.getLogger(__name__)

HEDGE_SECONDS: Final = 1.0
"""How long one source may take for the outboard before the next one is asked as well."""

_PIECE_BYTES: Final = 1 << 20

OnBytesVerified = Callable[[int, int], None]
"""Gets the bytes that are there so far and all of them."""

OnDropped = Callable[[str, StorageError], None]
"""Gets a source's name (see `BlobSource`) and why nothing more is taken from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """How it went.

    Attributes:
        bytes_from: bytes of the blob that each source gave, by its name; those of an earlier try
            are not included.
        dropped: why sources were given up, by name.
    """

    bytes_from: dict[str, int]
    dropped: dict[str, StorageError]


async def fetch_blob(
    blob: BlobId,
    sources: Sequence[BlobSource],
    target: Path,
    *,
    client: httpx.AsyncClient,
    patience: PortalPatience = DEFAULT_PATIENCE,
    on_progress: OnBytesVerified | None = None,
    on_dropped: OnDropped | None = None,
) -> Fetched:
    """Fetch a blob to a file, going on where an earlier try (killed at any point) ended.

    The file appears whole and flushed, or not at all; a file that is there is replaced.

    Args:
        client: of `portals.http.open_client`.

    Raises:
        NotFound: no source has the blob.
        FetchFailed: no source is left, and not all say that they lack it; has each one's reason.
        WriteConflict: another process fetches this blob to this place.
        StorageFull: the disk has no room; what was fetched is kept.
        StorageError: the place cannot be written.
    """
    report = Report(blob, on_progress, on_dropped)
    distinct = {source.name: source for source in sources}.values()
    readers = [SourceReader(source, blob, client, patience) for source in distinct]
    async with open_part(target, blob) as part:
        fetch = _Fetch(part, readers, report, patience)
        if not await fetch.run():
            raise fetch.failure()
    return Fetched(bytes_from=report.bytes_from, dropped=report.dropped)


async def read_whole(
    blob: BlobId,
    source: BlobSource,
    *,
    client: httpx.AsyncClient,
    crypto: Crypto,
    patience: PortalPatience = DEFAULT_PATIENCE,
) -> bytes:
    """A short blob in memory, from one source.

    Raises:
        PortalLied: its bytes are not the blob's.
        NotFound, PortalError: it has nothing, refuses, or does not answer.
    """
    data = bytearray()
    if blob.size:
        await SourceReader(source, blob, client, patience).read_range(0, blob.size, data)
    if crypto.blake3(bytes(data)) != blob.digest:
        raise PortalLied(source.origin, f"its bytes are not those of blob {blob.encode()}")
    return bytes(data)


class _Fetch:
    def __init__(
        self,
        part: PartFile,
        readers: Sequence[SourceReader],
        report: Report,
        patience: PortalPatience,
    ) -> None:
        self._part = part
        self._blob = part.blob
        self._readers = readers
        self._report = report
        self._patience = patience
        self._bytes_kept = 0

    async def run(self) -> bool:
        """Whether the blob is in its place now."""
        if self._blob.size == 0:
            return await self._empty()
        tree = await self._find_tree()
        if tree is None:
            return await self._fetch_whole()
        return await self._fetch_groups(tree)

    def failure(self) -> StorageError:
        """Why it is not."""
        dropped = self._report.dropped
        if dropped and all(isinstance(error, NotFound) for error in dropped.values()):
            places = ", ".join(dropped)
            return NotFound(f"blob {self._blob.encode()} is at none of {places}")
        return FetchFailed(self._blob.encode(), dropped, self._bytes_kept)

    async def _empty(self) -> bool:
        if not await to_thread.run_sync(self._part.finish):
            raise HashMismatch(self._blob.digest.hex(), "the hash of no bytes")
        return True

    def _left(self) -> list[SourceReader]:
        return [reader for reader in self._readers if reader.name not in self._report.dropped]

    async def _find_tree(self) -> GroupTree | None:
        """From an earlier try, else from the first source that has it."""
        if self._blob.type is not HashType.BLAKE3:
            return None
        if num_groups(self._blob.size) == 1:
            return GroupTree.decode(self._blob, self._blob.size.to_bytes(8, "little"))
        tree = await to_thread.run_sync(self._part.load_tree)
        if tree is None:
            tree = await self._ask_for_tree()
            if tree is not None:
                await to_thread.run_sync(self._part.save_tree, tree)
        return tree

    async def _ask_for_tree(self) -> GroupTree | None:
        found: list[GroupTree] = []
        async with anyio.create_task_group() as tasks:

            async def ask(reader: SourceReader, answered: anyio.Event) -> None:
                tree = await self._tree_of(reader)
                if tree is not None:
                    found.append(tree)
                    tasks.cancel_scope.cancel()
                answered.set()

            for reader in self._readers:
                answered = anyio.Event()
                tasks.start_soon(ask, reader, answered)
                with anyio.move_on_after(HEDGE_SECONDS):
                    await answered.wait()
        return found[0] if found else None

    async def _tree_of(self, reader: SourceReader) -> GroupTree | None:
        try:
            return await keep_trying(reader.outboard, lambda: 0, self._patience)
        except PortalUnavailable as exc:
            # It may be back when its bytes are asked for.
            _LOG.info("no outboard", extra={"source": reader.name, "reason": exc.reason})
        except PortalError as exc:
            self._report.drop(reader.name, exc)
        return None

    async def _fetch_groups(self, tree: GroupTree) -> bool:
        runs = Runs(self._blob, await self._resume(tree))
        if not runs.is_complete:
            fetch = GroupFetch(self._part, tree, runs, self._report, self._patience)
            await fetch.run(self._left())
        self._bytes_kept = runs.bytes_done
        if not runs.is_complete:
            return False
        if not await to_thread.run_sync(self._part.finish):
            # Every byte was verified in memory: what was written is not what is read.
            raise CorruptBlob(self._blob.encode(), str(self._part.target))
        return True

    async def _resume(self, tree: GroupTree) -> list[int]:
        checked = 0

        def on_checked(num_bytes: int) -> None:
            nonlocal checked
            checked += num_bytes
            from_thread.run_sync(self._report.progress, checked)

        return await to_thread.run_sync(self._part.sound_groups, tree, on_checked)

    async def _fetch_whole(self) -> bool:
        """Without an outboard: from one source after the other, verified at the end."""
        for reader in self._left():
            try:
                if await self._whole_from(reader):
                    return True
            except (PortalError, NotFound) as exc:
                self._report.drop(reader.name, exc)
        return False

    async def _whole_from(self, reader: SourceReader) -> bool:
        """
        Raises:
            PortalLied: all of the bytes came from this source, and they are wrong.
        """
        # What others sent may be the wrong part: then this source gets a second try.
        for is_last in (await to_thread.run_sync(self._part.whole_size) == 0, True):
            await keep_trying(lambda: self._go_on(reader), lambda: self._bytes_kept, self._patience)
            if await to_thread.run_sync(self._part.adopt_whole):
                return True
            await to_thread.run_sync(self._part.discard_whole)
            self._bytes_kept = 0
            if is_last:
                break
        self._report.bytes_from.pop(reader.name, None)
        raise PortalLied(reader.origin, "it sends other bytes than the hash asked for")

    async def _go_on(self, reader: SourceReader) -> None:
        offset = self._bytes_kept = await to_thread.run_sync(self._part.whole_size)
        size = self._blob.size
        if offset >= size:
            return
        async with reader.open_range(offset, size) as (response, first):
            if first < offset:
                await to_thread.run_sync(self._part.discard_whole)
                self._bytes_kept = 0
            async for piece in response.aiter_raw(_PIECE_BYTES):
                if self._bytes_kept + len(piece) > size:
                    raise PortalLied(reader.origin, f"it sends more than {size} bytes")
                await to_thread.run_sync(self._part.append_whole, piece)
                self._bytes_kept += len(piece)
                self._report.gave(reader.name, len(piece))
                self._report.progress(self._bytes_kept)
        if self._bytes_kept < size:
            raise PortalUnavailable(
                reader.origin, f"the connection ended after {self._bytes_kept} of {size} bytes"
            )
