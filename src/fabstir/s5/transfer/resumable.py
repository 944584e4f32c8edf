"""Resumable uploads, which continue where they were cut off, over days and restarts.

What is acknowledged of one is on disk: its bytes are flushed, then its row says how many. A kill
loses what came after the last of these steps (SYNC_BYTES at most), which nobody was told. When the
last byte is there, the store takes over the file itself under the owner's pin, in one transaction
with the upload's row; before it, a kill leaves a row that is complete without a blob, and the next
start finishes it.

An upload counts against its owner's quota with its whole length from the first moment.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread
from sqlalchemy import Connection

from fabstir.db.files import make_private_folder
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import (
    Busy,
    HashMismatch,
    NotFound,
    QuotaExceeded,
    RemoteProtocolError,
    StorageError,
    WriteConflict,
)
from fabstir.s5.store import BlobStore
from fabstir.s5.tables.pins import WHOLE_STORE, load_usage
from fabstir.s5.tables.tus import (
    TusRow,
    advance_upload,
    delete_upload,
    find_upload,
    finish_upload,
    insert_upload,
    list_expired,
    list_uploads,
    reserved,
)
from fabstir.s5.transfer._partial_file import PartialFile, open_partial

logger = logging.getLogger(__name__)

SYNC_BYTES: Final = 16 << 20
"""Bytes between two acknowledgements inside one request: 0.1 s of writing at 200 MB/s, and all
that a kill can lose of it."""

LIFETIME_SECONDS: Final = 24 * 3600
"""How long an upload waits for its next byte."""

SWEEP_SECONDS: Final = 600.0

MAX_UPLOADS: Final = 64
"""Unfinished uploads of one owner."""

_NAME = re.compile(r"[A-Za-z0-9_-]{22,64}")


class ChecksumMismatch(StorageError):
    """The bytes of one request are not what its checksum says; nothing of them is kept."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload, as its owner sees it.

    Attributes:
        length: bytes of the whole.
        offset: bytes that are safe here.
        expires_at: Unix time in seconds, moved on by every byte.
        blob: once it is whole.
    """

    id: str
    length: int
    offset: int
    metadata: str
    expires_at: int
    blob: BlobId | None

    @classmethod
    def of(cls, row: TusRow) -> Upload:
        """From its row."""
        blob = None if row.blob is None else BlobId.from_bytes(row.blob)
        return cls(row.id, row.length, row.offset, row.metadata, row.expires_at, blob)


@dataclass(slots=True)
class _Turn:
    """Who may write to one upload.

    Attributes:
        scope: of the one that does.
        newest: how many have come to take over.
    """

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    scope: anyio.CancelScope | None = None
    newest: int = 0
    num_users: int = 0


class ResumableUploads:
    """Made by `open_resumable_uploads`; usable until its block is left."""

    def __init__(
        self, store: BlobStore, folder: Path, *, lifetime: int, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._folder = folder
        self._lifetime = lifetime
        self._clock = clock
        self._turns: dict[str, _Turn] = {}

    async def create(
        self,
        owner: str,
        length: int,
        *,
        expected: Multihash | None,
        metadata: str,
        quota: int | None,
    ) -> Upload:
        """Begin an upload. If the store has the expected blob already, it is pinned; what comes
        back is then whole, and there is nothing to append to.

        Args:
            metadata: kept as it is and given back.
            quota: the most that the owner may have, in bytes, unfinished uploads included.

        Raises:
            QuotaExceeded, StorageFull: it would not fit.
            Busy: the owner has MAX_UPLOADS unfinished ones.
        """
        row = TusRow(
            id=secrets.token_urlsafe(32),
            owner=owner,
            length=length,
            offset=0,
            expected=None if expected is None else expected.to_bytes(),
            metadata=metadata,
            expires_at=self._expiry(),
            blob=None,
        )
        if expected is not None and await self._store.size(expected) == length:
            with suppress(NotFound):  # collected meanwhile: it is sent again
                await self._store.pin(owner, [expected], reason="upload")
                blob = BlobId(expected.digest, length, expected.type)
                return Upload.of(replace(row, offset=length, blob=blob.to_bytes()))

        def begin(db: Connection) -> None:
            # In the writer's turn, so that two that begin at once see each other.
            stored = load_usage(db, owner).num_bytes
            _check_room(owner, *reserved(db, owner), stored + length, quota)
            _, num_reserved = reserved(db)
            stored = load_usage(db, WHOLE_STORE).num_bytes
            self._store.check_room(stored + num_reserved + length)
            insert_upload(db, row)

        await self._store.db.write(begin, durable=True)
        if length == 0:
            return Upload.of(await self._finish(row))
        return Upload.of(row)

    async def find(self, upload_id: str, owner: str) -> Upload:
        """How far it is. Whole is said only of what the store has: until then this waits.

        Raises:
            NotFound: there is none of this id and owner, or it has expired.
            StorageFull, QuotaExceeded, HashMismatch: all bytes are here, and the store cannot take
                them; see `append`.
        """
        row = await self._row(upload_id, owner)
        if row.blob is None and row.offset == row.length:
            # Its client may have given up waiting for the last answer, and would take an upload
            # for done that can still fail.
            async with self._turn(upload_id, takes_over=False):
                row = await self._row(upload_id, owner)
                if row.blob is None and row.offset == row.length:
                    with anyio.CancelScope(shield=True):  # from who comes to append
                        row = await self._finish(row)
        return Upload.of(row)

    async def append(
        self,
        upload_id: str,
        owner: str,
        offset: int,
        pieces: AsyncIterable[bytes],
        *,
        algorithm: str | None = None,
        is_right: Callable[[bytes], bool] = lambda _digest: True,
    ) -> Upload:
        """Add bytes at `offset`; what has arrived is kept when `pieces` breaks off.

        Whoever is appending to the same upload is stopped first, and what came from him is kept:
        his connection is likely dead, and the client that comes back is the same.

        Args:
            algorithm: of hashlib; with it the bytes are kept only if `is_right` of their digest.

        Raises:
            NotFound: as `find`.
            WriteConflict: the upload is not at `offset`, or another request took over.
            RemoteProtocolError: more bytes than the upload has.
            ChecksumMismatch: nothing of these bytes is kept.
            StorageFull, QuotaExceeded: what is acknowledged is kept.
            HashMismatch: the whole is not what was promised; the upload is gone.
        """
        await self._row(upload_id, owner)
        async with self._turn(upload_id):
            row = await self._row(upload_id, owner)
            if row.offset != offset:
                raise WriteConflict(
                    f"upload {upload_id[:8]}...", f"it has {row.offset} bytes, not {offset}"
                )
            if row.blob is None and row.offset < row.length:
                row = await self._receive(row, pieces, algorithm, is_right)
            if row.blob is None and row.offset == row.length:
                with anyio.CancelScope(shield=True):
                    row = await self._finish(row)
            return Upload.of(row)
        raise _taken_over(upload_id)

    async def terminate(self, upload_id: str, owner: str) -> None:
        """Forget an upload; a blob that it became stays pinned.

        Raises:
            NotFound: as `find`.
        """
        await self._row(upload_id, owner)
        async with self._turn(upload_id):
            await self._drop(await self._row(upload_id, owner))

    async def remove_strays(self) -> None:
        """Remove files that belong to no unfinished upload; before anything is taken."""
        rows = await self._store.db.read(list_uploads)
        kept = {row.id for row in rows if row.blob is None}
        async for path in anyio.Path(self._folder).iterdir():
            if path.name not in kept and not await path.is_dir():  # folders are not ours
                await path.unlink(missing_ok=True)

    async def finish_complete(self) -> None:
        """Give the store what a kill left complete."""
        for row in await self._store.db.read(list_uploads):
            if row.blob is not None or row.offset < row.length:
                continue
            try:
                await self.find(row.id, row.owner)
            except StorageError as error:
                logger.warning("an upload cannot be finished", extra={"reason": str(error)})

    async def sweep(self) -> int:
        """Forget what has expired; returns how many."""
        expired = await self._store.db.read(
            lambda db: list_expired(db, int(self._clock()), limit=1000)
        )
        num_dropped = 0
        for row in expired:
            async with self._turn(row.id, takes_over=False):
                newest = await self._store.db.read(lambda db, name=row.id: find_upload(db, name))
                if newest is not None and newest.expires_at <= self._clock():
                    await self._drop(newest)
                    num_dropped += 1
        return num_dropped

    async def reserved_bytes(self, owner: str) -> int:
        """What the owner's unfinished uploads will have."""
        _, num_bytes = await self._store.db.read(lambda db: reserved(db, owner))
        return num_bytes

    def _expiry(self) -> int:
        return int(self._clock()) + self._lifetime

    def _path(self, row: TusRow) -> Path:
        return self._folder / row.id

    async def _row(self, upload_id: str, owner: str) -> TusRow:
        row = None
        if _NAME.fullmatch(upload_id):
            row = await self._store.db.read(lambda db: find_upload(db, upload_id))
        # That another owner has it is not told.
        if row is None or row.owner != owner or row.expires_at <= self._clock():
            raise NotFound("there is no such upload: it was never begun, was ended, or has expired")
        return row

    @asynccontextmanager
    async def _turn(self, upload_id: str, *, takes_over: bool = True) -> AsyncGenerator[None]:
        """One writer at a time. Who `takes_over` stops the one before, and those that wait.

        Raises:
            WriteConflict: a newer one came while this one waited.
        """
        turn = self._turns.setdefault(upload_id, _Turn())
        turn.num_users += 1
        try:
            ticket = turn.newest = turn.newest + takes_over
            if takes_over and turn.scope is not None:
                turn.scope.cancel()
            async with turn.lock:
                # Else one whose connection hangs could get its turn after its successor came.
                if takes_over and ticket != turn.newest:
                    raise _taken_over(upload_id)
                try:
                    with anyio.CancelScope() as turn.scope:
                        yield
                finally:
                    turn.scope = None
        finally:
            turn.num_users -= 1
            if not turn.num_users:
                del self._turns[upload_id]

    async def _receive(
        self,
        row: TusRow,
        pieces: AsyncIterable[bytes],
        algorithm: str | None,
        is_right: Callable[[bytes], bool],
    ) -> TusRow:
        """Write what comes, acknowledging as it goes; with a checksum only at the end."""
        async with open_partial(self._path(row), row.offset, algorithm) as file:
            acknowledged = row
            try:
                async for piece in pieces:
                    _require_fit(file.size + len(piece), row.length)
                    await file.append(piece)
                    if algorithm is None and file.size - acknowledged.offset >= SYNC_BYTES:
                        acknowledged = await self._acknowledge(row, file)
                await file.flush()
            except BaseException:
                if algorithm is None:  # half of what a checksum covers cannot be checked
                    with anyio.CancelScope(shield=True):
                        await self._acknowledge(row, file)
                raise
            if algorithm is not None and not is_right(file.digest):
                raise ChecksumMismatch("the bytes do not have the checksum that was sent")
            return await self._acknowledge(row, file)

    async def _acknowledge(self, row: TusRow, file: PartialFile) -> TusRow:
        await file.flush()
        offset, expires_at = file.size, self._expiry()
        await self._store.db.write(
            lambda db: advance_upload(db, row.id, offset=offset, expires_at=expires_at),
            durable=True,
        )
        return replace(row, offset=offset, expires_at=expires_at)

    async def _finish(self, row: TusRow) -> TusRow:
        expected = None if row.expected is None else Multihash.from_bytes(row.expected)
        expires_at = self._expiry()

        def note(db: Connection, blob: BlobId) -> None:
            finish_upload(db, row.id, blob=blob.to_bytes(), expires_at=expires_at)

        # As long as what was acknowledged, or a StorageError; of no bytes at all it makes a file.
        async with open_partial(self._path(row), row.length, None):
            pass
        try:
            blob = await self._store.adopt(
                self._path(row), owner=row.owner, reason="upload", expected=expected, note=note
            )
        except HashMismatch:
            await self._drop(row)
            raise
        return replace(row, blob=blob.to_bytes(), expires_at=expires_at)

    async def _drop(self, row: TusRow) -> None:
        await self._store.make_room(lambda db: delete_upload(db, row.id), durable=True)
        await anyio.Path(self._path(row)).unlink(missing_ok=True)


def _taken_over(upload_id: str) -> WriteConflict:
    return WriteConflict(f"upload {upload_id[:8]}...", "another request goes on with it")


def _require_fit(size: int, length: int) -> None:
    if size > length:
        raise RemoteProtocolError(f"the upload has {length} bytes, not more")


def _check_room(
    owner: str, num_uploads: int, num_reserved: int, needed: int, quota: int | None
) -> None:
    if num_uploads >= MAX_UPLOADS:
        raise Busy(
            f"{owner} has {num_uploads} unfinished uploads: finish or end some", retry_after=60
        )
    if quota is not None and num_reserved + needed > quota:
        raise QuotaExceeded(owner, quota, num_reserved + needed)


@asynccontextmanager
async def open_resumable_uploads(
    store: BlobStore,
    folder: Path,
    *,
    lifetime: int = LIFETIME_SECONDS,
    sweep_seconds: float = SWEEP_SECONDS,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[ResumableUploads]:
    """Take and keep uploads in `folder` for the length of the block, sweeping out old ones."""
    await to_thread.run_sync(make_private_folder, folder)
    uploads = ResumableUploads(store, folder, lifetime=lifetime, clock=clock)
    await uploads.remove_strays()

    async def keep_clean() -> None:
        await uploads.finish_complete()
        while True:
            try:
                num_swept = await uploads.sweep()
            except StorageError as error:
                logger.warning("uploads were not swept", extra={"reason": str(error)})
            else:
                if num_swept:
                    logger.info("uploads have expired", extra={"num_uploads": num_swept})
            await anyio.sleep(sweep_seconds)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_clean)
        yield uploads
        tasks.cancel_scope.cancel()
