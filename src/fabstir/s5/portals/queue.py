"""A durable queue of uploads, retried until the portal has the blob.

A row first, then the upload, then the row goes, in one commit with whatever records the copy. So a
kill at any moment loses no upload; one that it interrupts goes on where the portal has it, and the
worst that happens is that a blob is sent once more.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from sqlalchemy import Connection

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    ConfigError,
    CorruptBlob,
    NotFound,
    PortalUnavailable,
    StorageError,
)
from fabstir.s5.portals.health import Backoff
from fabstir.s5.portals.http import shown
from fabstir.s5.portals.portal import Portal
from fabstir.s5.portals.source import UploadSource
from fabstir.s5.store import BlobStore
from fabstir.s5.tables.blobs import find_blob
from fabstir.s5.tables.uploads import (
    UploadRow,
    UploadState,
    claim_upload,
    count_uploads,
    delete_upload,
    insert_upload,
    load_uploads,
    next_due,
    postpone_upload,
    return_all,
    return_upload,
    save_location,
)
from fabstir.telemetry.background import running
from fabstir.telemetry.waiting import Changes

_LOG = logging.getLogger(__name__)

UNREACHABLE: Final = Backoff(first=1.0, most=60.0)
"""For portals that do not answer. One that is back has what waits for it within a minute."""

REFUSED: Final = Backoff(first=60.0, most=3600.0)
"""For blobs that a portal refuses: somebody may pay, or log in again, or make room."""

_MAX_DELAY = 2 * 3600.0
"""Above every delay that is given, Retry-After's hour included."""

_DATABASE_PAUSE = 10.0
"""Seconds until a database that could not be written is tried again."""

_MAX_LISTED = 10_000

OnStored = Callable[[Connection, BlobId, str], None]
"""Called in the very transaction that ends an upload, with the portal's URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingUpload:
    """One upload that is not done.

    Attributes:
        is_running: at this moment.
        num_bytes: sent of the running attempt.
        attempts: that failed.
        next_attempt_at: Unix seconds; in the past, if it waits for others before it.
        last_error: "" if nothing has failed.
    """

    blob: BlobId
    portal: str
    is_running: bool
    num_bytes: int
    attempts: int
    next_attempt_at: float
    last_error: str


class UploadQueue:
    """What is still to be uploaded. Made by `open_upload_queue`."""

    def __init__(
        self,
        store: BlobStore,
        portals: Sequence[Portal],
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        unreachable: Backoff,
        refused: Backoff,
        on_stored: OnStored | None,
    ) -> None:
        self._store = store
        self._lines = {
            portal.url: _Line(self, portal, clock, random, unreachable, refused)
            for portal in portals
        }
        self._clock = clock
        self._on_stored = on_stored
        self._changes = Changes()

    async def enqueue(self, blob: BlobId, portals: Iterable[str] | None = None) -> None:
        """Have a pinned blob uploaded; it is queued durably when this returns, and begun at once.

        Args:
            portals: their URLs; None: all that are configured.

        Raises:
            NotFound: nobody has the blob pinned here.
            ConfigError: such a portal is not configured.
        """
        urls = list(self._lines if portals is None else portals)
        if unknown := [url for url in urls if url not in self._lines]:
            raise ConfigError(f"{unknown[0]} is not among the configured portals (s5.portals)")
        now = self._clock()

        def insert(connection: Connection) -> None:
            row = find_blob(connection, blob.multihash)
            if row is None or not row.num_pins:
                raise NotFound(f"blob {blob.encode()} is not pinned here, so it is not uploaded")
            for url in urls:
                insert_upload(connection, BlobId(row.digest, row.size), url, now)

        await self._store.db.write(insert, durable=True)
        self.wake()

    async def pending(self) -> list[PendingUpload]:
        """What is not done, the oldest first; at most 10,000 (`backlog` counts all)."""
        rows = await self._store.db.read(lambda connection: load_uploads(connection, _MAX_LISTED))
        return [self._shown(row) for row in rows]

    async def backlog(self) -> dict[str, tuple[int, int]]:
        """By portal, how many blobs and bytes it is still to get."""
        return await self._store.db.read(count_uploads)

    async def wait_until_done(self) -> None:
        """Until every configured portal has everything."""
        while True:
            changed = self._changes.next
            backlog = await self.backlog()
            if not any(url in self._lines for url in backlog):
                return
            await changed.wait()

    def wake(self) -> None:
        """Look again, whoever waits."""
        self._changes.tell()

    @property
    def store(self) -> BlobStore:
        return self._store

    @property
    def on_stored(self) -> OnStored | None:
        return self._on_stored

    @property
    def changed(self) -> anyio.Event:
        """Set with the next change, and then replaced."""
        return self._changes.next

    async def run(self, workers: int) -> None:
        """Upload until cancelled."""
        async with anyio.create_task_group() as tasks:
            for line in self._lines.values():
                for _ in range(workers):
                    tasks.start_soon(line.work)

    def _shown(self, row: UploadRow) -> PendingUpload:
        line = self._lines.get(row.portal)
        error = row.last_error if line else "this portal is not configured any more (s5.portals)"
        return PendingUpload(
            blob=row.blob,
            portal=row.portal,
            is_running=row.state is UploadState.UPLOADING,
            num_bytes=line.progress.get(row.blob, 0) if line else 0,
            attempts=row.attempts,
            next_attempt_at=row.next_attempt_at,
            last_error=error,
        )


class _Line:
    """What waits for one portal. While it does not answer, one upload at a time tries it."""

    def __init__(
        self,
        queue: UploadQueue,
        portal: Portal,
        clock: Callable[[], float],
        random: Callable[[], float],
        unreachable: Backoff,
        refused: Backoff,
    ) -> None:
        self.progress: dict[BlobId, int] = {}
        self._queue = queue
        self._portal = portal
        self._clock = clock
        self._random = random
        self._unreachable = unreachable
        self._refused = refused
        self._failures = 0
        self._paused_until = 0.0
        self._trying = anyio.Lock()
        self._to_give_back: list[UploadRow] = []

    async def work(self) -> None:
        """One worker: upload what is due, else sleep until something is."""
        while True:
            changed = self._queue.changed
            try:
                if await self._work_once():
                    continue
                pause = await self._pause()
            except StorageError:
                _LOG.exception("the upload queue cannot be read or written: free disk space")
                pause = _DATABASE_PAUSE
            with anyio.move_on_after(pause):
                await changed.wait()

    async def _work_once(self) -> bool:
        await self._give_back()
        if not self._failures:
            return await self._upload_next()
        async with self._trying:
            is_paused = self._clock() < self._paused_until <= self._clock() + _MAX_DELAY
            return not is_paused and await self._upload_next()

    async def _pause(self) -> float:
        """Seconds until something is due; everything that is queued meanwhile wakes earlier."""
        due = await self._queue.store.db.read(lambda c: next_due(c, self._portal.url))
        if due is None:
            return float("inf")
        # Both against a clock that was set back: nothing waits longer than the longest delay.
        return min(_MAX_DELAY, max(0.0, max(due, self._paused_until) - self._clock()))

    async def _upload_next(self) -> bool:
        db, now = self._queue.store.db, self._clock()
        row = await db.write(
            lambda c: claim_upload(c, self._portal.url, now, _MAX_DELAY), durable=False
        )
        if row is None:
            return False
        try:
            await self._upload(row)
        except BaseException:
            self._to_give_back.append(row)
            with anyio.CancelScope(shield=True):
                await self._give_back()
            raise
        finally:
            self.progress.pop(row.blob, None)
        self._queue.wake()
        return True

    async def _give_back(self) -> None:
        """Let uploads wait again that were cancelled, or whose row could not be written."""
        while self._to_give_back:
            row = self._to_give_back.pop()  # before any wait: the workers share the list
            try:
                await self._queue.store.db.write(
                    lambda c, r=row: return_upload(c, r), durable=False
                )
            except BaseException:
                self._to_give_back.append(row)
                raise

    async def _upload(self, row: UploadRow) -> None:
        if not await self._is_pinned(row.blob):
            await self._queue.store.db.write(lambda c: delete_upload(c, row), durable=False)
            return
        try:
            await self._portal.upload(
                self._source(row.blob),
                location=row.location,
                on_location=lambda location: self._keep_location(row, location),
                on_progress=lambda done, _: self.progress.__setitem__(row.blob, done),
            )
        except (NotFound, CorruptBlob) as exc:
            await self._postpone(row, exc, self._refused.delay(row.attempts, self._random))
        except PortalUnavailable as exc:
            pause = max(exc.retry_after, self._unreachable.delay(self._failures, self._random))
            self._failures += 1
            self._paused_until = self._clock() + pause
            await self._postpone(row, exc, pause)
        except StorageError as exc:
            self._failures = 0
            await self._postpone(row, exc, self._refused.delay(row.attempts, self._random))
        else:
            self._failures = 0
            await self._finish(row)

    async def _is_pinned(self, blob: BlobId) -> bool:
        row = await self._queue.store.db.read(lambda c: find_blob(c, blob.multihash))
        return row is not None and row.num_pins > 0

    def _source(self, blob: BlobId) -> UploadSource:
        return UploadSource(blob, lambda start: self._queue.store.read(blob.multihash, start))

    async def _keep_location(self, row: UploadRow, location: str | None) -> None:
        await self._queue.store.db.write(lambda c: save_location(c, row, location), durable=False)

    async def _postpone(self, row: UploadRow, error: StorageError, delay: float) -> None:
        until = self._clock() + delay
        await self._queue.store.db.write(
            lambda c: postpone_upload(c, row, until=until, error=shown(str(error))),
            durable=False,
        )
        _LOG.info(
            "upload postponed",
            extra={"blob": row.blob.encode(), "portal": row.portal, "reason": str(error)},
        )

    async def _finish(self, row: UploadRow) -> None:
        on_stored = self._queue.on_stored

        def finish(connection: Connection) -> None:
            delete_upload(connection, row)
            if on_stored is not None:
                on_stored(connection, row.blob, row.portal)

        await self._queue.store.db.write(finish, durable=True)


def _random() -> float:
    return secrets.randbits(53) / (1 << 53)


@asynccontextmanager
async def open_upload_queue(
    store: BlobStore,
    portals: Sequence[Portal],
    *,
    clock: Callable[[], float] = time.time,
    random: Callable[[], float] = _random,
    workers: int = 2,
    unreachable: Backoff = UNREACHABLE,
    refused: Backoff = REFUSED,
    on_stored: OnStored | None = None,
) -> AsyncGenerator[UploadQueue]:
    """Upload what is queued in the store's database, for the length of the block.

    Args:
        clock: seconds since the epoch.
        random: numbers from 0 to below 1, for the jitter of delays.
        workers: uploads at a time to each portal.
        on_stored: records a copy, in the transaction that ends its upload; a replication may
            note there what is stored where.
    """
    await store.db.write(return_all, durable=False)
    queue = UploadQueue(
        store,
        portals,
        clock=clock,
        random=random,
        unreachable=unreachable,
        refused=refused,
        on_stored=on_stored,
    )
    async with running(lambda: queue.run(workers)):
        yield queue
