"""A store in one file (`.s5car`), to move it or to keep a copy elsewhere.

    archive    = magic, (blob | entry)*, end
    magic      = 53 35 43 41 52 0d 0a 01            "S5CAR", a line end, version 1
    blob       = 01, length of the identifier (1 byte), identifier (36 to 43 bytes), content
    entry      = 02, length (1 byte), a registry entry in its wire form
    end        = 00, number of blobs (u64, little-endian), BLAKE3 (32 bytes)

The identifier is S5's own, so it says how long the content is and what it hashes to. The registry
entries name the roots of trees: without them content comes back, and no path leads to it. Each is
behind the blobs that it leads to. The hash at the end covers identifiers and entries one after
another: nobody can leave one out unnoticed. It is a checksum, no signature: whoever makes an
archive decides what is in it.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from anyio import to_thread

from fabstir.crypto import Blake3
from fabstir.db.files import install, open_own
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    CorruptBlob,
    HashMismatch,
    NotFound,
    RegistryFull,
    RemoteProtocolError,
    StorageError,
    WriteConflict,
)
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.registry import SignedEntry, read_blob_pointer
from fabstir.s5.ports import EntryRegistry
from fabstir.s5.store._files import disk_errors
from fabstir.s5.store.store import BlobStore
from fabstir.s5.tables.blobs import load_page, load_pinned
from fabstir.s5.tables.registry import load_entries

IMPORTED: Final = "import"
"""Why a blob is pinned that came out of an archive."""

MAGIC: Final = b"S5CAR\r\n\x01"
_BLOB: Final = 1
_ENTRY: Final = 2
_END: Final = 0
_PIECE_BYTES: Final = 1 << 20
_PAGE: Final = 256
_ENTRIES: Final = 4096
_NAMED: Final = 5
"""Damaged blobs that an error names; the result of an export has them all."""


OnBlobsDone = Callable[[int], None]
"""Gets the bytes of the archive that are done."""


def unseen(_num_bytes: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an archive was made of.

    Attributes:
        num_entries: registry entries.
        damaged: blobs that have rotted here and are not in it.
    """

    num_blobs: int
    num_bytes: int
    num_entries: int
    damaged: tuple[BlobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came out of an archive, counting what was here already.

    Attributes:
        num_entries: registry entries that are the newest ones here now.
        num_outdated: those that are not: another one of their revision or above is here, or the
            blob that they name is not.
        num_refused: those of keys for which the registry has no room.
    """

    num_blobs: int
    num_bytes: int
    num_entries: int
    num_outdated: int
    num_refused: int = 0


class ArchiveReader:
    """Reads an archive in order, in pieces; holds one piece at a time.

    Args:
        read: returns so many bytes, fewer only at the end.
    """

    def __init__(self, read: Callable[[int], bytes], crypto: Crypto) -> None:
        self._read = read
        self._crypto = crypto
        self._listed = Blake3()
        self._remaining = 0
        self.num_blobs = 0

    def begin(self) -> None:
        """Raises RemoteProtocolError: it is no archive of a version that is known."""
        if self._read(len(MAGIC)) != MAGIC:
            raise RemoteProtocolError("this is no S5 archive of version 1 (S5CAR)")

    def next_part(self) -> BlobId | SignedEntry | None:
        """The next blob's identifier, when the last one's content was read, or the next registry
        entry, verified; None: the end.

        Raises:
            RemoteProtocolError: cut off, damaged, or with something behind its end.
        """
        assert not self._remaining, "the content of a blob is read before the next part"
        kind = self._take(1, "between two parts")[0]
        if kind == _END:
            self._check_end()
            return None
        if kind not in {_BLOB, _ENTRY}:
            raise RemoteProtocolError(f"{kind:#04x} begins no part of an S5 archive")
        raw = self._take(self._take(1, "in a part's head")[0], "in a part's head")
        self._listed.update(raw)
        if kind == _ENTRY:
            return SignedEntry.decode(raw, self._crypto)
        blob = _identifier(raw)
        self._remaining = blob.size
        self.num_blobs += 1
        return blob

    def next_piece(self) -> bytes:
        """More of the current blob's content, not verified; empty at its end.

        Raises:
            RemoteProtocolError: cut off.
        """
        if not self._remaining:
            return b""
        piece = self._read(min(self._remaining, _PIECE_BYTES))
        if not piece:
            raise RemoteProtocolError(
                f"an S5 archive ends {self._remaining} bytes before the end of a blob"
            )
        self._remaining -= len(piece)
        return piece

    def _check_end(self) -> None:
        if int.from_bytes(self._take(8, "in its end"), "little") != self.num_blobs:
            raise RemoteProtocolError("an S5 archive has another number of blobs than it says")
        if self._take(32, "in its end") != self._listed.digest():
            raise RemoteProtocolError("an S5 archive has other blobs or entries than its end says")
        if self._read(1):
            raise RemoteProtocolError("an S5 archive goes on behind its end")

    def _take(self, length: int, where: str) -> bytes:
        taken = self._read(length)
        if len(taken) != length:
            raise RemoteProtocolError(f"an S5 archive is cut off {where}")
        return taken


class ArchiveWriter:
    """Writes an archive into a file that can be cut back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._listed = Blake3()
        self.num_blobs = 0
        self.num_entries = 0
        file.write(MAGIC)

    def begin_blob(self, blob: BlobId) -> int:
        """Write a blob's header; its content follows. Returns where it began, for `abandon`."""
        start = self._file.tell()
        self._write_part(_BLOB, blob.to_bytes())
        return start

    def write(self, piece: bytes) -> None:
        """More of a blob's content."""
        self._file.write(piece)

    def end_blob(self, blob: BlobId) -> None:
        """The content is complete."""
        self._listed.update(blob.to_bytes())
        self.num_blobs += 1

    def abandon(self, start: int) -> None:
        """Take back a blob that cannot be completed."""
        self._file.seek(start)
        self._file.truncate()

    def add_entry(self, entry: SignedEntry) -> None:
        """One registry entry."""
        raw = entry.encode()
        self._write_part(_ENTRY, raw)
        self._listed.update(raw)
        self.num_entries += 1

    def end(self) -> None:
        """Nothing more."""
        self._file.write(bytes([_END]) + self.num_blobs.to_bytes(8, "little"))
        self._file.write(self._listed.digest())

    def _write_part(self, kind: int, raw: bytes) -> None:
        self._file.write(bytes([kind, len(raw)]) + raw)


async def export_archive(
    store: BlobStore,
    file: Path,
    *,
    owner: str | None = None,
    on_progress: OnBlobsDone = unseen,
) -> Exported:
    """Write what is pinned and all registry entries into one archive; or what one owner pins.

    It is written beside `file`, then renamed: what has that name is complete.

    Args:
        on_progress: gets the bytes that are written, of some more than all blobs have.

    Raises:
        StorageFull, StorageError: the file cannot be written; there is none then.
    """
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    with disk_errors(file.parent):
        try:
            # 0600: what is in clear, and whose entries there are, is its owner's alone.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            with os.fdopen(open_own(part, flags), "w+b") as stream:
                export = _Export(store, stream, on_progress)
                if owner is not None:
                    async for pin in store.pins(owner):
                        await export.add(pin.blob)
                else:
                    await export.add_all()
                export.writer.end()
            await to_thread.run_sync(install, part, file)
        finally:
            part.unlink(missing_ok=True)
    return Exported(
        num_blobs=export.writer.num_blobs,
        num_bytes=export.num_bytes,
        num_entries=export.writer.num_entries,
        damaged=tuple(export.damaged),
    )


class _Export:
    """Fills an archive."""

    def __init__(self, store: BlobStore, stream: BinaryIO, on_progress: OnBlobsDone) -> None:
        self.writer = ArchiveWriter(stream)
        self.num_bytes = 0
        self.damaged: list[BlobId] = []
        self._store = store
        self._stream = stream
        self._on_progress = on_progress
        self._last = 0
        self._unpinned: set[int] = set()

    async def add_all(self) -> None:
        """All blobs that somebody pins, and all registry entries behind those that they may name.

        Writers go on meanwhile: what they stored until an entry was read goes before it.
        """
        await self._add_blobs()
        after, db = b"", self._store.db
        while entries := await db.read(lambda c, at=after: load_entries(c, at, _ENTRIES)):
            await self._add_blobs()
            for entry in entries:
                self.writer.add_entry(entry)
            after = entries[-1].public_key

    async def add(self, blob: BlobId) -> None:
        """One blob, verified; none of it where it is gone or damaged."""
        start = self.writer.begin_blob(blob)
        try:
            async for piece in self._store.read(blob.multihash):
                await to_thread.run_sync(self.writer.write, piece)
                self._on_progress(self._stream.tell())
        except NotFound:
            self.writer.abandon(start)  # collected since it was listed
        except CorruptBlob:
            self.writer.abandon(start)
            self.damaged.append(blob)
        else:
            self.writer.end_blob(blob)
            self.num_bytes += blob.size

    async def _add_blobs(self) -> None:
        """What is pinned and not in it yet, in the order in which it came."""
        db, unpinned = self._store.db, iter(sorted(self._unpinned))
        while ids := list(islice(unpinned, _PAGE)):
            for row in await db.read(lambda c, ids=ids: load_pinned(c, ids)):
                self._unpinned.discard(row.id)
                await self.add(row.blob)
        while rows := await db.read(lambda c: load_page(c, self._last, _PAGE)):
            for row in rows:
                if row.num_pins:
                    await self.add(row.blob)
                else:
                    self._unpinned.add(row.id)
            self._last = rows[-1].id


def _open_archive(file: Path) -> BinaryIO:
    """Without waiting for whoever writes to a pipe: it would hold a thread of a node for ever.

    Raises:
        StorageError: it is no file.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StorageError(f"{file} is no file: write the archive into one first")
    return os.fdopen(handle, "rb")


async def import_archive(
    store: BlobStore,
    file: Path,
    registry: EntryRegistry,
    *,
    owner: str,
    crypto: Crypto,
    reason: str = IMPORTED,
    on_progress: OnBlobsDone = unseen,
) -> Imported:
    """Store and pin all blobs of an archive, and set its registry entries, each verified.

    An entry replaces one of a lower revision; one whose blob is missing is passed over. A damaged
    blob does not stop the import: it is named at the end.

    Args:
        registry: that of this store.
        on_progress: gets the bytes of the file that are done.

    Raises:
        StorageError: the archive is damaged or cut off, the text says where; what was verified is
            kept.
        QuotaExceeded, StorageFull: as `BlobStore.put`; what was stored before is kept.
    """
    taken = _Taken()
    with disk_errors(file), _open_archive(file) as stream:
        reader = ArchiveReader(stream.read, crypto)
        try:
            await to_thread.run_sync(reader.begin)
            while part := await to_thread.run_sync(reader.next_part):
                if isinstance(part, SignedEntry):
                    try:
                        taken.note_entry(is_newest=await _set(store, registry, part))
                    except RegistryFull:
                        taken.num_refused += 1
                    continue
                content = _content(reader)
                try:
                    await store.put(content, owner=owner, reason=reason, expected=part.multihash)
                except HashMismatch:
                    taken.damaged.append(f"{part.encode()} (number {reader.num_blobs})")
                    continue
                taken.note_blob(part)
                on_progress(stream.tell())
        except RemoteProtocolError as exc:
            raise StorageError(
                f"{file}: {exc}; the {taken.num_blobs} blobs before are kept. Fetch or make the "
                "archive again, and import it again"
            ) from exc
    if taken.damaged:
        raise StorageError(
            f"{file}: the bytes of {len(taken.damaged)} blobs are not what their identifiers say: "
            f"{', '.join(taken.damaged[:_NAMED])}; the other {taken.num_blobs} are kept. Fetch or "
            "make the archive again, and import it again"
        )
    return Imported(
        num_blobs=taken.num_blobs,
        num_bytes=taken.num_bytes,
        num_entries=taken.num_entries,
        num_outdated=taken.num_outdated,
        num_refused=taken.num_refused,
    )


@dataclass(slots=True)
class _Taken:
    """What came out of an archive until now."""

    num_blobs: int = 0
    num_bytes: int = 0
    num_entries: int = 0
    num_outdated: int = 0
    num_refused: int = 0
    damaged: list[str] = field(default_factory=list[str])

    def note_blob(self, blob: BlobId) -> None:
        self.num_blobs += 1
        self.num_bytes += blob.size

    def note_entry(self, *, is_newest: bool) -> None:
        self.num_entries += is_newest
        self.num_outdated += not is_newest


async def _content(reader: ArchiveReader) -> AsyncIterator[bytes]:
    while piece := await to_thread.run_sync(reader.next_piece):
        yield piece


def _identifier(raw: bytes) -> BlobId:
    try:
        blob = BlobId.from_bytes(raw)
    except ValueError as exc:
        raise RemoteProtocolError(f"an S5 archive has a damaged identifier: {exc}") from exc
    if blob.to_bytes() != raw:
        raise RemoteProtocolError("an S5 archive has an identifier of an earlier form")
    return blob


async def _set(store: BlobStore, registry: EntryRegistry, entry: SignedEntry) -> bool:
    """Whether it is the newest one of its key here now."""
    if entry.data:
        try:
            named = read_blob_pointer(entry.data)
        except RemoteProtocolError:
            named = None  # it names no blob: an application's own data
        if named is not None and await store.size(named) is None:
            return False
    try:
        await registry.set(entry)
    except WriteConflict:
        return False
    return True
