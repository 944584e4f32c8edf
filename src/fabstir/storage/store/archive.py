"""One file that holds blobs: to move them, or to keep a copy elsewhere (`.s5car`).

    archive    = magic, blob*, end
    magic      = 53 35 43 41 52 0d 0a 01            "S5CAR", a line end, version 1
    blob       = 01, length of the identifier (1 byte), identifier (36 to 43 bytes), content
    end        = 00, number of blobs (u64, little-endian), BLAKE3 of all identifiers (32 bytes)

The identifier is S5's own, so it says how long the content is and what it hashes to. The hash at
the end covers the identifiers one after another: nobody can leave a blob out unnoticed. It is a
checksum, no signature: whoever makes an archive decides what is in it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from anyio import to_thread

from fabstir.crypto import Blake3
from fabstir.db.files import install
from fabstir.db.s5.blobs import load_page
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    CorruptBlob,
    HashMismatch,
    NotFound,
    RemoteProtocolError,
    StorageError,
)
from fabstir.storage.store._files import disk_errors

if TYPE_CHECKING:
    from fabstir.storage.store.store import BlobStore

MAGIC: Final = b"S5CAR\r\n\x01"
_BLOB: Final = 1
_END: Final = 0
_PIECE_BYTES: Final = 1 << 20
_PAGE: Final = 256
_NAMED: Final = 5
"""Damaged blobs that an error names; the result of an export has them all."""


OnProgress = Callable[[int], None]
"""Gets the bytes of the archive that are done."""


def unseen(_num_bytes: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an archive was made of.

    Attributes:
        damaged: blobs that have rotted here and are not in it.
    """

    num_blobs: int
    num_bytes: int
    damaged: tuple[BlobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came out of an archive, counting what was here already."""

    num_blobs: int
    num_bytes: int


class ArchiveReader:
    """Reads an archive in order, in pieces; holds one piece at a time.

    Args:
        read: returns so many bytes, fewer only at the end.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._identifiers = Blake3()
        self._remaining = 0
        self.num_blobs = 0

    def begin(self) -> None:
        """Raises RemoteProtocolError: it is no archive of a version that is known."""
        if self._read(len(MAGIC)) != MAGIC:
            raise RemoteProtocolError("this is no S5 archive of version 1 (S5CAR)")

    def next_blob(self) -> BlobId | None:
        """The next blob's identifier, when the last one's content was read; None: the end.

        Raises:
            RemoteProtocolError: cut off, damaged, or with something behind its end.
        """
        assert not self._remaining, "the content of a blob is read before the next blob"
        kind = self._take(1, "between two blobs")[0]
        if kind == _END:
            self._check_end()
            return None
        if kind != _BLOB:
            raise RemoteProtocolError(f"{kind:#04x} begins no part of an S5 archive")
        raw = self._take(self._take(1, "in an identifier")[0], "in an identifier")
        try:
            blob = BlobId.from_bytes(raw)
        except ValueError as exc:
            raise RemoteProtocolError(f"an S5 archive has a damaged identifier: {exc}") from exc
        if blob.to_bytes() != raw:
            raise RemoteProtocolError("an S5 archive has an identifier of an earlier form")
        self._identifiers.update(raw)
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
        if self._take(32, "in its end") != self._identifiers.digest():
            raise RemoteProtocolError("an S5 archive has other blobs than its end says")
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
        self._identifiers = Blake3()
        self.num_blobs = 0
        file.write(MAGIC)

    def begin_blob(self, blob: BlobId) -> int:
        """Write a blob's header; its content follows. Returns where it began, for `abandon`."""
        start = self._file.tell()
        raw = blob.to_bytes()
        self._file.write(bytes([_BLOB, len(raw)]) + raw)
        return start

    def write(self, piece: bytes) -> None:
        """More of a blob's content."""
        self._file.write(piece)

    def end_blob(self, blob: BlobId) -> None:
        """The content is complete."""
        self._identifiers.update(blob.to_bytes())
        self.num_blobs += 1

    def abandon(self, start: int) -> None:
        """Take back a blob that cannot be completed."""
        self._file.seek(start)
        self._file.truncate()

    def end(self) -> None:
        """No more blobs."""
        self._file.write(bytes([_END]) + self.num_blobs.to_bytes(8, "little"))
        self._file.write(self._identifiers.digest())


async def export_archive(
    store: BlobStore, file: Path, owner: str | None, on_progress: OnProgress
) -> Exported:
    """Write the archive beside `file`, then rename it: what has that name is complete."""
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    num_bytes = 0
    damaged: list[BlobId] = []
    with disk_errors(file.parent):
        try:
            with part.open("xb") as stream:
                writer = ArchiveWriter(stream)
                async for blob in _wanted(store, owner):
                    start = writer.begin_blob(blob)
                    try:
                        async for piece in store.read(blob.multihash):
                            await to_thread.run_sync(writer.write, piece)
                            on_progress(stream.tell())
                    except NotFound:
                        writer.abandon(start)  # collected since it was listed
                    except CorruptBlob:
                        writer.abandon(start)
                        damaged.append(blob)
                    else:
                        writer.end_blob(blob)
                        num_bytes += blob.size
                writer.end()
            await to_thread.run_sync(install, part, file)
        finally:
            part.unlink(missing_ok=True)
    return Exported(num_blobs=writer.num_blobs, num_bytes=num_bytes, damaged=tuple(damaged))


async def import_archive(
    store: BlobStore, file: Path, owner: str, reason: str, on_progress: OnProgress
) -> Imported:
    """Put every blob; go on behind damaged ones, and name them at the end."""
    num_blobs = num_bytes = 0
    damaged: list[str] = []
    with disk_errors(file), file.open("rb") as stream:
        reader = ArchiveReader(stream.read)
        try:
            await to_thread.run_sync(reader.begin)
            while blob := await to_thread.run_sync(reader.next_blob):
                try:
                    await store.put(
                        _content(reader), owner=owner, reason=reason, expected=blob.multihash
                    )
                except HashMismatch:
                    damaged.append(f"{blob.encode()} (number {reader.num_blobs})")
                    continue
                num_blobs += 1
                num_bytes += blob.size
                on_progress(stream.tell())
        except RemoteProtocolError as exc:
            raise StorageError(
                f"{file}: {exc}; the {num_blobs} blobs before are kept. Fetch or make the archive "
                "again, and import it again"
            ) from exc
    if damaged:
        raise StorageError(
            f"{file}: the bytes of {len(damaged)} blobs are not what their identifiers say: "
            f"{', '.join(damaged[:_NAMED])}; the other {num_blobs} are kept. Fetch or make the "
            "archive again, and import it again"
        )
    return Imported(num_blobs=num_blobs, num_bytes=num_bytes)


async def _content(reader: ArchiveReader) -> AsyncIterator[bytes]:
    while piece := await to_thread.run_sync(reader.next_piece):
        yield piece


async def _wanted(store: BlobStore, owner: str | None) -> AsyncIterator[BlobId]:
    if owner is not None:
        async for pin in store.pins(owner):
            yield pin.blob
        return
    after = 0
    while rows := await store.db.read(lambda c, at=after: load_page(c, at, _PAGE)):
        for row in rows:
            yield row.blob
        after = rows[-1].id
