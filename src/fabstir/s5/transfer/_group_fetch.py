"""Fetches the missing groups of a blob from all sources at once, verifying each as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio import to_thread

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    NotFound,
    PortalError,
    PortalLied,
    PortalUnavailable,
    StorageError,
)
from fabstir.s5.portals.http import PortalPatience
from fabstir.s5.transfer._part import RUN_GROUPS, PartFile
from fabstir.s5.transfer._runs import Runs
from fabstir.s5.transfer._sources import NoRanges, SourceReader
from fabstir.s5.verified.tree import GROUP_BYTES, GroupTree, group_extent

STREAMS_PER_SOURCE: Final = 2
"""So that a source sends one run while another of it is verified. Each holds 4 MiB."""

STREAMS_PER_ORIGIN: Final = 8
"""Of all its sources together: whoever signs many locations at a stranger's server has this node
ask it no faster than a few clients would. The next one's turn comes when a run is through."""

_RUN_BYTES: Final = RUN_GROUPS * GROUP_BYTES


@dataclass(slots=True)
class Report:
    """Who gave what, and who is trusted no more.

    Attributes:
        bytes_from: verified bytes by the sources' names; those of an earlier try not included.
        dropped: why a source was given up.
    """

    blob: BlobId
    on_progress: Callable[[int, int], None] | None
    on_dropped: Callable[[str, StorageError], None] | None
    bytes_from: dict[str, int] = field(default_factory=dict[str, int])
    dropped: dict[str, StorageError] = field(default_factory=dict[str, StorageError])

    def progress(self, num_bytes: int) -> None:
        """So many bytes are there."""
        if self.on_progress is not None:
            self.on_progress(num_bytes, self.blob.size)

    def gave(self, source: str, num_bytes: int) -> None:
        """A source gave so many verified bytes."""
        self.bytes_from[source] = self.bytes_from.get(source, 0) + num_bytes

    def drop(self, source: str, error: StorageError) -> None:
        """Nothing more is taken from a source."""
        if source not in self.dropped:
            self.dropped[source] = error
            if self.on_dropped is not None:
                self.on_dropped(source, error)


class GroupFetch:
    """One blob's missing groups."""

    def __init__(
        self, part: PartFile, tree: GroupTree, runs: Runs, report: Report, patience: PortalPatience
    ) -> None:
        self._part = part
        self._tree = tree
        self._runs = runs
        self._report = report
        self._patience = patience
        self._all = anyio.CancelScope()
        self._turns: dict[str, anyio.CapacityLimiter] = {}

    async def run(self, readers: Sequence[SourceReader]) -> None:
        """Until the blob is complete or no source is left.

        Raises:
            StorageError: the disk is full, or cannot be written.
        """
        with self._all:
            async with anyio.create_task_group() as tasks:
                for reader in readers:
                    tasks.start_soon(_Supply(self, reader).run)

    def turn(self, origin: str) -> anyio.CapacityLimiter:
        """Whose block is one stream of this origin's."""
        return self._turns.setdefault(origin, anyio.CapacityLimiter(STREAMS_PER_ORIGIN))

    async def keep(self, source: SourceReader, first: int, data: bytes | memoryview) -> int:
        """Verify and keep whole groups of one run.

        Returns:
            Bytes that were missing until now.

        Raises:
            PortalLied: one of them is wrong; the right ones are kept.
        """
        wrong = await to_thread.run_sync(self._part.accept, self._tree, first, data)
        count = -(-len(data) // GROUP_BYTES)
        groups = (group for group in range(first, first + count) if group not in set(wrong))
        new = sum(self._runs.mark(group) for group in groups)
        if new:
            self._report.gave(source.name, new)
            self._report.progress(self._runs.bytes_done)
        if wrong:
            start, end = group_extent(self._tree.blob.size, wrong[0])
            raise PortalLied(source.origin, f"its bytes {start} to {end} are not those of the blob")
        if self._runs.is_complete:
            self._all.cancel()
        return new

    @property
    def runs(self) -> Runs:
        """What is missing, and who is at it."""
        return self._runs

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return self._tree.blob.size

    @property
    def patience(self) -> PortalPatience:
        """How long a source is waited for."""
        return self._patience

    def drop(self, source: str, error: StorageError) -> None:
        """See `Report.drop`."""
        self._report.drop(source, error)


class _Supply:
    """What comes from one source, in several streams that fail together."""

    def __init__(self, fetch: GroupFetch, reader: SourceReader) -> None:
        self._fetch = fetch
        self._reader = reader
        self._scope = anyio.CancelScope()
        self._failures = 0
        self._is_sending_all = False

    async def run(self) -> None:
        with self._scope:
            async with anyio.create_task_group() as tasks:
                for _ in range(STREAMS_PER_SOURCE):
                    tasks.start_soon(self._stream)

    async def _stream(self) -> None:
        while True:
            try:
                async with self._fetch.turn(self._reader.origin):
                    if not await self._next():
                        return None
            except PortalUnavailable as exc:
                self._failures += 1
                patience = self._fetch.patience
                # An outage fails every stream once.
                rounds = self._failures // STREAMS_PER_SOURCE
                if rounds >= patience.max_failures or exc.retry_after > patience.max_delay:
                    return self._give_up(exc)
                await anyio.sleep(max(patience.delay(rounds), exc.retry_after))
            except (PortalError, NotFound) as exc:
                return self._give_up(exc)

    def _give_up(self, error: StorageError) -> None:
        self._fetch.drop(self._reader.name, error)
        self._scope.cancel()

    async def _next(self) -> bool:
        """One run, or everything; False: there is nothing left to do here."""
        if self._reader.has_ranges:
            return await self._next_run()
        if self._is_sending_all:
            return False
        self._is_sending_all = True
        try:
            await self._everything()
        finally:
            self._is_sending_all = False
        return False

    async def _next_run(self) -> bool:
        name, runs = self._reader.name, self._fetch.runs
        with anyio.CancelScope() as scope:
            run = await runs.take(name, scope)
            if run is None:
                return False
            try:
                await self._fill(run)
            except NoRanges:
                self._reader.has_ranges = False
            finally:
                runs.release(run, name)
        return True

    async def _fill(self, run: int) -> None:
        missing = self._fetch.runs.missing(run)
        if missing is None:
            return
        start, end = group_extent(self._fetch.size, *missing)
        data, failure = bytearray(), None
        try:
            await self._reader.read_range(start, end, data)
        except PortalUnavailable as exc:
            failure = exc
        usable = len(data) if len(data) == end - start else len(data) // GROUP_BYTES * GROUP_BYTES
        if usable:
            await self._keep(missing[0], memoryview(data)[:usable])
        if failure is not None:
            raise failure

    async def _everything(self) -> None:
        """The whole blob from a source without ranges; what is there already is passed over."""
        pending, offset = bytearray(), 0
        size = self._fetch.size
        async with self._reader.open_range(0, size) as (response, _):
            async for piece in response.aiter_raw():
                pending += piece
                if offset + len(pending) > size:
                    raise PortalLied(self._reader.origin, f"it sends more than {size} bytes")
                while len(pending) >= _RUN_BYTES or offset + len(pending) == size > offset:
                    length = min(_RUN_BYTES, len(pending))
                    if self._fetch.runs.missing(offset // _RUN_BYTES) is not None:
                        await self._keep(offset // GROUP_BYTES, bytes(pending[:length]))
                    del pending[:length]
                    offset += length
        if offset < size:
            raise PortalUnavailable(
                self._reader.origin,
                f"the connection ended after {offset + len(pending)} of {size} bytes",
            )

    async def _keep(self, first: int, data: bytes | memoryview) -> None:
        if await self._fetch.keep(self._reader, first, data):
            self._failures = 0
