"""The local content-addressed store: a blob is kept for as long as somebody pins it.

What it promises:

- A put is acknowledged when the bytes, their name and the pin are on disk. A small blob is one
  SQLite commit with `synchronous=FULL`, which puts of the same moment share. A larger one is a
  file: written under a temporary name, `fdatasync`, renamed, its folder flushed, then the row and
  the pin in one such commit. So what was acknowledged survives a power cut, and nothing
  half-written is ever visible. Taking back (unpinning, quotas) is flushed with the next commit.
- Every read is compared with a hash before it is handed over: small blobs and whole ones with their
  own, parts of large ones with the hash of each 256 KiB. Rotten ones are marked, never served
  again, and healed by storing them anew.
- Everything that decides something runs in the one writer thread of the database: a collection
  cannot take what a put or a pin at the same moment keeps.
- Start-up looks at `tmp/` and at the list of doomed files, never at the blobs.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy import Connection

from fabstir.db import Database, open_database
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import CorruptBlob, NotFound
from fabstir.protocol.crypto import Crypto
from fabstir.s5.store._files import StoreFolder
from fabstir.s5.store._newest import NewestEntries
from fabstir.s5.store._reading import BlobReader
from fabstir.s5.store._writing import BlobWriter, Note, Put, unnoted
from fabstir.s5.store.scrub import DEFAULT_SCRUB_RATE, Scrubbed, Scrubber
from fabstir.s5.tables import S5
from fabstir.s5.tables.blobs import BlobRow, count_damaged, delete_blobs, find_blob, load_garbage
from fabstir.s5.tables.pins import (
    WHOLE_STORE,
    Pin,
    StoreUsage,
    add_usage,
    delete_pin,
    insert_pin,
    load_owners,
    load_pins,
    load_usage,
    relabel_pin,
    save_quota,
)
from fabstir.s5.tables.scrubs import ScrubRound, load_round

T = TypeVar("T")

DEFAULT_GRACE_SECONDS: Final = 3600.0
"""How long a blob that nobody pins is kept: whoever moves it to another owner has that time."""

_NUM_THREADS: Final = 8
"""Blobs that are read or written at a moment; more would only make the disk seek."""

_NUM_HASHERS: Final = 8
"""Two for each of four large blobs that are written at a moment: more than a disk takes."""

_PAGE: Final = 256
"""Rows of one transaction, so that nobody waits long for the writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection removed."""

    num_blobs: int
    num_bytes: int


class BlobStore:
    """An open store. Made by `open_store`; usable until its block is left.

    Attributes:
        db: its database, with the tables of `fabstir.s5.tables`: for accounts, queues and registry.
        folder: where it is.
        newest_entries: what its registry remembers, one memory for all that open it.
    """

    def __init__(
        self, *, db: Database, folder: StoreFolder, writer: BlobWriter, reader: BlobReader
    ) -> None:
        self.db = db
        self.folder = folder.root
        self.newest_entries = NewestEntries()
        self._files = folder
        self._writer = writer
        self._reader = reader

    async def put(
        self,
        data: bytes | AsyncIterable[bytes],
        *,
        owner: str,
        reason: str,
        expected: Multihash | None = None,
        max_bytes: int | None = None,
        may_use_reserve: bool = False,
    ) -> BlobId:
        """Store and pin, durably, in one step. Bytes that are here already cost nothing.

        Args:
            data: whole, or in pieces of any size; of a stream 3 MiB are in memory.
            owner: whose pin it is, and whose quota it counts for; not empty.
            reason: why, for people; the first one of an owner stays.
            expected: what it must hash to; the identifier that comes back is of this kind.
            max_bytes: the caller's limit.
            may_use_reserve: whether it may have the room that a full disk keeps for removals: what
                takes the place of something, as a directory with fewer names does.

        Raises:
            HashMismatch: it hashes to something else.
            BlobTooLarge: it is longer than `max_bytes`.
            QuotaExceeded, StorageFull: nothing is kept.
            StorageError: the disk fails.
        """
        _check_owner(owner)
        wanted = Put(
            owner=owner,
            reason=reason,
            expected=expected,
            max_bytes=max_bytes,
            may_use_reserve=may_use_reserve,
        )
        return await self._writer.put(data, wanted)

    async def adopt(
        self,
        file: Path,
        *,
        owner: str,
        reason: str,
        expected: Multihash | None = None,
        note: Note = unnoted,
    ) -> BlobId:
        """Store and pin a finished file, as `put`, and remove its name: it is the store's now.

        On the store's own file system it is read once, to verify it, and not copied; from another
        one it is copied. Nobody may write to it any more, from this call on.

        Args:
            note: what else is written in the transaction that stores and pins it.

        Raises:
            HashMismatch, QuotaExceeded, StorageFull, StorageError: as `put`. The file is left where
                it is, as it was.
        """
        _check_owner(owner)
        wanted = Put(owner=owner, reason=reason, expected=expected, note=note)
        return await self._writer.adopt(file, wanted)

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """A whole blob, verified.

        Raises:
            NotFound: it is not here.
            CorruptBlob: its bytes have rotted, now or earlier.
            BlobTooLarge: it is longer than `max_bytes`.
        """
        return await self._reader.get(blob, max_bytes)

    async def size(self, blob: Multihash) -> int | None:
        """Its length in bytes; None: it is not here, or what is here has rotted."""
        return await self._reader.size(blob)

    def read(self, blob: Multihash, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """A part of a blob, in pieces of up to 1 MiB, each verified before it is yielded.

        An iteration that has begun goes on to its end, whatever is unpinned and collected. Its
        memory is two pieces and 1/8192 of the range.

        Args:
            start: the first byte, from 0.
            end: the byte after the last; None, or too large: the blob's end.

        Raises:
            NotFound, CorruptBlob: as `get`, from the iteration.
            ValueError: `start` or `end` is negative.
        """
        if start < 0 or (end is not None and end < 0):
            raise ValueError(f"{start} to {end} is no range of bytes")
        return self._reader.read(blob, start, end)

    async def pin(self, owner: str, blobs: Iterable[Multihash], *, reason: str) -> None:
        """Keep blobs that are here, durably; all of them, or none.

        Raises:
            NotFound: one is not here.
            CorruptBlob: one has rotted.
            QuotaExceeded: they do not fit into the owner's quota.
        """
        _check_owner(owner)
        wanted, now = list(blobs), self._writer.clock()

        def pin(connection: Connection) -> None:
            for blob in wanted:
                row = find_blob(connection, blob)
                if row is None:
                    raise NotFound(f"{owner} cannot pin {blob.digest.hex()}: it is not here")
                if row.is_bad:
                    raise CorruptBlob(row.blob.encode(), self._reader.place(row))
                insert_pin(connection, owner, row, reason, now)

        await self.db.write(pin, durable=True)

    async def unpin(self, owner: str, blobs: Iterable[Multihash]) -> int:
        """Keep blobs no more. Those that the owner has not pinned are passed over.

        Returns:
            How many the owner had pinned.
        """
        now, remaining, num_unpinned = self._writer.clock(), iter(blobs), 0
        while page := list(islice(remaining, _PAGE)):

            def unpin(connection: Connection, page: list[Multihash] = page) -> int:
                rows = [row for blob in page if (row := find_blob(connection, blob))]
                return sum(delete_pin(connection, owner, row, now) for row in rows)

            num_unpinned += await self.make_room(unpin, durable=False)
        return num_unpinned

    async def relabel(self, owner: str, blobs: Iterable[Multihash], *, reason: str) -> None:
        """Say anew why an owner keeps blobs; those that it has not pinned are passed over. A power
        cut may take it back."""
        remaining = iter(blobs)
        while page := list(islice(remaining, _PAGE)):

            def relabel(connection: Connection, page: list[Multihash] = page) -> None:
                for blob in page:
                    if (row := find_blob(connection, blob)) is not None:
                        relabel_pin(connection, owner, row, reason)

            await self.db.write(relabel, durable=False)

    async def pins(self, owner: str | None = None) -> AsyncIterator[Pin]:
        """Everything that an owner (None: anybody) keeps, in the order in which it came."""
        place = ("", 0)
        while True:
            page, place = await self.db.read(lambda c, at=place: load_pins(c, owner, at, _PAGE))
            for pin in page:
                yield pin
            if len(page) < _PAGE:
                return

    async def usage(self, owner: str | None = None) -> StoreUsage:
        """What an owner keeps, exactly; None: all that is stored, pinned or not, each blob once."""
        name = WHOLE_STORE if owner is None else owner
        usage = await self.db.read(lambda connection: load_usage(connection, name))
        if owner is not None:
            return usage
        return StoreUsage(
            num_blobs=usage.num_blobs,
            num_bytes=usage.num_bytes,
            max_bytes=self._writer.max_bytes,
        )

    def check_room(self, num_bytes: int) -> None:
        """Raises StorageFull: the whole store may not hold so much, or its disk is full."""
        self._writer.check_room(num_bytes)

    async def owners(self) -> AsyncIterator[tuple[str, StoreUsage]]:
        """Everybody who ever kept something or has a quota, by name."""
        place = WHOLE_STORE
        while page := await self.db.read(lambda c, at=place: load_owners(c, at, _PAGE)):
            for entry in page:
                yield entry
            place = page[-1][0]

    async def set_quota(self, owner: str, max_bytes: int | None) -> None:
        """Limit what an owner keeps; None: no limit. What is kept already stays."""
        await self.set_quotas([owner], max_bytes)

    async def set_quotas(self, owners: Iterable[str], max_bytes: int | None) -> None:
        """`set_quota` for many, of whom a kill may leave some as they were."""
        remaining = iter(owners)
        while page := list(islice(remaining, _PAGE)):

            def save(connection: Connection, page: list[str] = page) -> None:
                for owner in page:
                    save_quota(connection, owner, max_bytes)

            for owner in page:
                _check_owner(owner)
            await self.db.write(save, durable=True)

    async def collect(self, *, grace_seconds: float = DEFAULT_GRACE_SECONDS) -> Collected:
        """Remove what nobody has pinned for `grace_seconds`.

        Rows first, durably; then the files, which open readers still read to their end. Killed in
        between, the rest of the files go when the store is opened again.
        """
        before = self._writer.clock() - grace_seconds
        num_blobs = num_bytes = 0
        while rows := await self.make_room(lambda c: _forget_garbage(c, before), durable=True):
            await self._writer.sweep([row.file for row in rows if row.file is not None])
            num_blobs += len(rows)
            num_bytes += sum(row.size for row in rows)
        await to_thread.run_sync(self._files.reserve.fill)
        return Collected(num_blobs=num_blobs, num_bytes=num_bytes)

    async def make_room(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        """`db.write` of what frees some: SQLite needs room for that, which a full disk has not.

        Raises:
            StorageFull: it needs more than is kept for that, or somebody else was faster.
        """
        return await self._writer.make_room(fn, durable=durable)

    def scrub(
        self,
        *,
        after: str = "",
        max_bytes_per_second: float = DEFAULT_SCRUB_RATE,
        remove_orphans: bool = False,
    ) -> AsyncIterator[Scrubbed]:
        """Read everything and name what is wrong: rot, lost files, wrong sizes, unknown files.

        Rotten blobs are marked. Marked ones whose bytes are right again (somebody restored the
        file) are served again.

        Args:
            after: the cursor of an earlier scrub's last report, to go on behind it.
            max_bytes_per_second: how fast it may read, so that others get at the disk.
            remove_orphans: also remove files that no row names. Only where the database was not
                replaced by an older copy: there they are blobs that it does not know yet.

        Raises:
            ValueError: `after` is no cursor.
        """
        return self._scrubber.run(after, max_bytes_per_second, remove_orphans=remove_orphans)

    def scrub_round(
        self, *, max_bytes_per_second: float = DEFAULT_SCRUB_RATE
    ) -> AsyncIterator[Scrubbed]:
        """A scrub that goes on where the last one of these stopped, also in an earlier process.

        How far it is, is saved whenever the next report is asked for. Its counts are of this
        process; those of the whole round are `scrubbed`.
        """
        return self._scrubber.round(max_bytes_per_second, self._writer.clock)

    async def scrubbed(self) -> ScrubRound:
        """How far the round is, and when the last one ended."""
        return await self.db.read(load_round)

    async def num_damaged(self) -> int:
        """Blobs that are never served, because their bytes were found to be wrong."""
        return await self.db.read(count_damaged)

    @property
    def _scrubber(self) -> Scrubber:
        return Scrubber(self.db, self._files, self._reader, self._writer.crypto)


@asynccontextmanager
async def open_store(
    folder: Path,
    crypto: Crypto,
    *,
    max_bytes: int | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[BlobStore]:
    """Open (or create) a store, and finish what a kill interrupted.

    Args:
        max_bytes: the most that it holds, pinned or not; None: what the disk holds.
        clock: seconds since the epoch.

    Raises:
        ConfigError: another process has it open, a newer version wrote it, or its database cannot
            be used, or is gone or empty while there was one, or files of its blobs are there.
        StorageFull: the disk has no room even to open it.
        StorageError: its folders cannot be made.
    """
    files = StoreFolder(folder)
    await to_thread.run_sync(files.make)
    await to_thread.run_sync(files.check_database)
    url = f"sqlite:///{files.database}"
    async with open_database(url, S5, reserve=files.reserve) as db:
        await to_thread.run_sync(files.tidy)
        threads = CapacityLimiter(_NUM_THREADS)
        with ThreadPoolExecutor(_NUM_HASHERS, "store-hasher") as hashers:
            writer = BlobWriter(
                db=db,
                folder=files,
                crypto=crypto,
                threads=threads,
                hashers=hashers,
                max_bytes=max_bytes,
                clock=clock,
            )
            await writer.sweep()
            reader = BlobReader(db, files, crypto, threads)
            yield BlobStore(db=db, folder=files, writer=writer, reader=reader)


def _forget_garbage(connection: Connection, unpinned_before: float) -> list[BlobRow]:
    rows = load_garbage(connection, unpinned_before, _PAGE)
    if rows:
        delete_blobs(connection, rows)
        add_usage(connection, WHOLE_STORE, -len(rows), -sum(row.size for row in rows))
    return rows


def _check_owner(owner: str) -> None:
    if not owner or len(owner) > 256:
        raise ValueError(f"{owner!r} is no owner: 1 to 256 characters")
