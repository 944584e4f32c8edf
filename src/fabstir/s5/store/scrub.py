"""Scrubbing: reads the whole store slowly, to find rot before somebody needs the data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import anyio
from anyio import to_thread
from sqlalchemy import Connection

from fabstir.db import Database
from fabstir.primitives.cid import BlobId
from fabstir.protocol.crypto import Crypto
from fabstir.s5.store._files import OpenBlob, StoreFolder
from fabstir.s5.store._hashing import GROUP_BYTES, BlobHasher
from fabstir.s5.store._reading import BlobReader, Rotten, unreadable_is_rotten
from fabstir.s5.tables.blobs import (
    GROUP_HASH_BYTES,
    BlobRow,
    load_data,
    load_groups,
    load_page,
    load_row,
    named_files,
    restore_groups,
)
from fabstir.s5.tables.pins import WHOLE_STORE, load_usage
from fabstir.s5.tables.replicas import newest_blob
from fabstir.s5.tables.scrubs import ScrubRound, load_round, save_round

DEFAULT_SCRUB_RATE: Final = 64e6
"""Bytes a second: a terabyte in four and a half hours, and a tenth of what a disk reads."""

_PAGE: Final = 64
"""Most blobs of one report: those in the database are 4 MiB together."""

_REPORT_BYTES: Final = 256 << 20
"""A report comes after so many bytes, or the blob in which they end: seconds at the usual rate. So
much is read again after a restart."""

_STEP_BYTES: Final = 16 * GROUP_BYTES
_SHARDS: Final = [f"{number:02x}" for number in range(256)]
_BLOB_CURSOR: Final = "blob:"
_FOLDER_CURSOR: Final = "folder:"


class Fault(StrEnum):
    """What a scrub finds."""

    ROT = "rot"
    """Other bytes than were stored, or unreadable ones."""
    MISSING = "missing"
    """The file of a blob is gone."""
    WRONG_SIZE = "wrong size"
    """The file of a blob was cut off, or grew."""
    ORPHAN = "orphan"
    """A file that belongs to no blob."""
    RESTORED = "restored"
    """A blob that was marked as rotten and is right again: it is served again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        blob: None for orphans.
        place: the file, or the row of the database.
    """

    fault: Fault
    blob: BlobId | None
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    """One report of a scrub that goes on.

    Attributes:
        cursor: where it is; a scrub that begins `after` it goes on here.
        num_blobs, num_bytes: checked since this scrub was begun.
        total_blobs: what the store had when this scrub was begun.
        findings: what is wrong, since the last report.
    """

    cursor: str
    num_blobs: int
    num_bytes: int
    total_blobs: int
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Pace:
    """Waits until a number of bytes may have been read."""

    bytes_per_second: float
    due: float

    async def spend(self, num_bytes: int) -> None:
        self.due = max(self.due, anyio.current_time() - 1) + num_bytes / self.bytes_per_second
        await anyio.sleep(max(0.0, self.due - anyio.current_time()))


@dataclass(frozen=True, slots=True)
class Scrubber:
    """One walk through a store."""

    db: Database
    folder: StoreFolder
    reader: BlobReader
    crypto: Crypto

    async def run(
        self, after: str, bytes_per_second: float, *, remove_orphans: bool
    ) -> AsyncIterator[Scrubbed]:
        """Blobs by age, then files by name."""
        blob_id, shards = _parse(after)
        pace = _Pace(bytes_per_second, anyio.current_time())
        total = (await self.db.read(lambda c: load_usage(c, WHOLE_STORE))).num_blobs
        # What comes meanwhile was just verified, and may come faster than it could be read.
        newest = await self.db.read(newest_blob)
        num_blobs = num_bytes = 0
        while blob_id is not None:
            page = await self.db.read(lambda c, at=blob_id: load_page(c, at, _PAGE))
            rows = [row for row in page if row.id <= newest]
            if not rows:
                break
            findings, unreported = list[Finding](), 0
            for row in rows:
                if finding := await self._check(row, pace):
                    findings.append(finding)
                blob_id = row.id
                num_blobs += 1
                num_bytes += row.size
                unreported += row.size
                if row is rows[-1] or unreported >= _REPORT_BYTES:
                    yield Scrubbed(
                        cursor=f"{_BLOB_CURSOR}{blob_id}",
                        num_blobs=num_blobs,
                        num_bytes=num_bytes,
                        total_blobs=total,
                        findings=tuple(findings),
                    )
                    findings, unreported = [], 0
        for shard in shards:
            yield Scrubbed(
                cursor=f"{_FOLDER_CURSOR}{shard}",
                num_blobs=num_blobs,
                num_bytes=num_bytes,
                total_blobs=total,
                findings=tuple(await self._orphans(shard, remove=remove_orphans)),
            )

    async def round(
        self, bytes_per_second: float, clock: Callable[[], float]
    ) -> AsyncIterator[Scrubbed]:
        """`run`, saving after each report how far it is."""
        begun = await self.db.read(load_round)
        if not begun.cursor:
            begun = ScrubRound(started_at=clock(), finished_at=begun.finished_at)
        current = begun
        async for report in self.run(begun.cursor, bytes_per_second, remove_orphans=False):
            yield report
            # Only now: what was not handed over is looked at again.
            current = replace(
                begun,
                cursor=report.cursor,
                num_blobs=begun.num_blobs + report.num_blobs,
                num_bytes=begun.num_bytes + report.num_bytes,
            )
            await self._save(current)
        await self._save(replace(current, cursor="", finished_at=clock()))

    async def _save(self, current: ScrubRound) -> None:
        await self.db.write(lambda connection: save_round(connection, current), durable=False)

    async def _check(self, row: BlobRow, pace: _Pace) -> Finding | None:
        if row.file is None:
            await pace.spend(row.size)
            fault, groups = await self._check_inline(row), b""
        else:
            fault, groups = await self._check_file(row, pace)
        if fault is None and not row.is_bad:
            return None
        if fault is None or fault is Fault.RESTORED:
            if not await self.db.write(lambda c: restore_groups(c, row, groups), durable=True):
                return None
            fault = Fault.RESTORED
        elif not await self._is_current(row):
            return None  # collected or stored anew while it was read
        elif not row.is_bad:
            await self.reader.quarantine(row)
        return Finding(fault=fault, blob=row.blob, place=self.reader.place(row))

    async def _check_inline(self, row: BlobRow) -> Fault | None:
        data = await self.db.read(lambda connection: load_data(connection, row.id))
        is_right = data is not None and self.crypto.blake3(data) == row.digest
        return None if is_right else Fault.ROT

    async def _check_file(self, row: BlobRow, pace: _Pace) -> tuple[Fault | None, bytes]:
        """What is wrong with a file, and the hashes of its groups as it is."""
        assert row.file is not None
        file = OpenBlob(self.folder.path(row.file))
        hasher = BlobHasher(has_sha256=False)

        def step(position: int) -> int:
            with unreadable_is_rotten():
                data = file.read(_STEP_BYTES, position)
            hasher.update([memoryview(data)])
            return len(data)

        try:
            while num_bytes := await to_thread.run_sync(step, hasher.size):
                await pace.spend(num_bytes)
                if hasher.size > row.size:
                    break
        except FileNotFoundError:
            return Fault.MISSING, b""
        except Rotten:
            return Fault.ROT, b""
        finally:
            file.close()
        if hasher.size != row.size:
            return Fault.WRONG_SIZE, b""
        if hasher.digest != row.digest:
            return Fault.ROT, b""
        groups = hasher.groups
        stored = await self.db.read(
            lambda c: load_groups(c, row.id, 0, len(groups) // GROUP_HASH_BYTES)
        )
        return (None if stored == groups else Fault.RESTORED), groups

    async def _is_current(self, row: BlobRow) -> bool:
        current = await self.db.read(lambda connection: load_row(connection, row.id))
        return current is not None and current.file == row.file

    async def _orphans(self, shard: str, *, remove: bool) -> list[Finding]:
        # The listing comes first: every file in it was named by a row before it appeared.
        names = await to_thread.run_sync(self.folder.shard, shard)
        unknown: list[str] = []
        for start in range(0, len(names), _PAGE):
            page = names[start : start + _PAGE]

            def known(connection: Connection, page: list[str] = page) -> set[str]:
                return named_files(connection, page)

            named = await self.db.read(known)
            unknown += [name for name in page if name not in named]
        orphans = [name for name in unknown if (self.folder.root / name).exists()]
        if remove:
            await to_thread.run_sync(self.folder.remove, orphans)
        return [
            Finding(fault=Fault.ORPHAN, blob=None, place=str(self.folder.root / name))
            for name in orphans
        ]


def _parse(cursor: str) -> tuple[int | None, list[str]]:
    """The id behind which to go on (None: all blobs are done), and the folders still to do."""
    if not cursor:
        return 0, _SHARDS
    if cursor.startswith(_BLOB_CURSOR) and cursor.removeprefix(_BLOB_CURSOR).isdecimal():
        return int(cursor.removeprefix(_BLOB_CURSOR)), _SHARDS
    shard = cursor.removeprefix(_FOLDER_CURSOR)
    if not cursor.startswith(_FOLDER_CURSOR) or shard not in _SHARDS:
        raise ValueError(f"{cursor!r} is no cursor of a scrub")
    return None, [other for other in _SHARDS if other > shard]
