"""Reading: nothing leaves the store before its hash is checked."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Final, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from sqlalchemy import Connection

from fabstir.db import Database
from fabstir.primitives.cid import HashType, Multihash
from fabstir.primitives.errors import BlobTooLarge, CorruptBlob, NotFound, StorageError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.store._files import OpenBlob, StoreFolder
from fabstir.s5.store._hashing import GROUP_BYTES
from fabstir.s5.tables.blobs import (
    GROUP_HASH_BYTES,
    BlobRow,
    find_blob,
    load_data,
    load_groups,
    mark_bad,
)

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_PIECE_GROUPS: Final = 4
"""1 MiB is read, verified and yielded at a time: changing threads costs 50 us, hashing it 300."""


class Rotten(Exception):
    """The bytes are not what the row says. Becomes CorruptBlob, once it is in the database."""


class BlobReader:
    """Finds, reads and verifies blobs, and quarantines rotten ones."""

    def __init__(
        self, db: Database, folder: StoreFolder, crypto: Crypto, threads: CapacityLimiter
    ) -> None:
        self._db = db
        self._folder = folder
        self._crypto = crypto
        self._threads = threads

    async def size(self, blob: Multihash) -> int | None:
        """Bytes of a blob that can be served."""
        row = await self._db.read(lambda connection: find_blob(connection, blob))
        return None if row is None or row.is_bad else row.size

    async def get(self, blob: Multihash, max_bytes: int) -> bytes:
        """A whole blob."""

        def load(connection: Connection) -> tuple[BlobRow, bytes | None]:
            row = self._servable(connection, blob)
            if row.size > max_bytes:
                raise BlobTooLarge(max_bytes)
            return row, load_data(connection, row.id) if row.file is None else None

        row, data = await self._db.read(load)
        try:
            if row.file is not None:
                data = await self._in_thread(lambda: self._whole_file(row))
            verified = self._verified(row, blob, data)
        except FileNotFoundError:
            await self._lost_file(row, blob)
            return await self.get(blob, max_bytes)
        except Rotten:
            raise await self.quarantine(row) from None
        return verified

    async def read(self, blob: Multihash, start: int, end: int | None) -> AsyncIterator[bytes]:
        """A part of a blob, in verified pieces."""
        while True:
            row, groups = await self._db.read(lambda c: self._plan(c, blob, start, end))
            if row.file is None:
                data = await self.get(blob, row.size)
                if piece := data[start : row.size if end is None else end]:
                    yield piece
                return
            file = OpenBlob(self._folder.path(row.file))
            try:
                async with aclosing(self._pieces(row, file, groups, start, end)) as pieces:
                    async for piece in pieces:
                        yield piece
            except FileNotFoundError:
                await self._lost_file(row, blob)
            except Rotten:
                raise await self.quarantine(row) from None
            else:
                return
            finally:
                file.close()

    def place(self, row: BlobRow) -> str:
        """Where a blob's bytes are, for people."""
        if row.file is None:
            return f"{self._db.place} (blob_data, row {row.id})"
        return str(self._folder.root / row.file)

    async def quarantine(self, row: BlobRow) -> CorruptBlob:
        """Serve it no more, and return the error that says so."""

        def mark(connection: Connection) -> None:
            data = load_data(connection, row.id) if row.file is None else None
            if data is None or self._crypto.blake3(data) != row.digest:
                mark_bad(connection, row)

        with anyio.CancelScope(shield=True):
            await self._db.write(mark, durable=False)
        error = CorruptBlob(row.blob.encode(), self.place(row))
        _LOG.error("corrupt blob", extra={"blob": error.blob, "place": error.place})
        return error

    def _servable(self, connection: Connection, blob: Multihash) -> BlobRow:
        row = find_blob(connection, blob)
        if row is None:
            # Strangers read this: it does not say where on this machine.
            raise NotFound(f"this node has no blob with the {blob.type.name} {blob.digest.hex()}")
        if row.is_bad:
            raise CorruptBlob(row.blob.encode(), self.place(row))
        return row

    def _plan(
        self, connection: Connection, blob: Multihash, start: int, end: int | None
    ) -> tuple[BlobRow, bytes]:
        """The row and the hashes that the range needs: 1/8192 of its length.

        All of them at once: afterwards a collection may take the rows, but not an open file.
        """
        row = self._servable(connection, blob)
        stop = row.size if end is None else min(end, row.size)
        if row.file is None or start >= stop:
            return row, b""
        last = -(-stop // GROUP_BYTES)
        return row, load_groups(connection, row.id, start // GROUP_BYTES, last)

    async def _pieces(
        self, row: BlobRow, file: OpenBlob, groups: bytes, start: int, end: int | None
    ) -> AsyncGenerator[bytes]:
        stop = row.size if end is None else min(end, row.size)
        first = start // GROUP_BYTES
        position = first * GROUP_BYTES
        while start < stop and position < stop:
            index = position // GROUP_BYTES - first
            hashes = groups[index * GROUP_HASH_BYTES : (index + _PIECE_GROUPS) * GROUP_HASH_BYTES]
            data = await self._in_thread(
                lambda at=position, hashes=hashes: self._verified_groups(file, at, row.size, hashes)
            )
            is_whole = start <= position and position + len(data) <= stop
            yield data if is_whole else data[max(0, start - position) : stop - position]
            position += len(data)

    def _verified_groups(self, file: OpenBlob, position: int, size: int, hashes: bytes) -> bytes:
        """Read the groups that `hashes` are of.

        Raises:
            Rotten: they are others, fewer, or unreadable.
        """
        num_groups = len(hashes) // GROUP_HASH_BYTES
        wanted = min(num_groups * GROUP_BYTES, size - position)
        with unreadable_is_rotten():
            data = file.read(wanted, position)
        if not num_groups or len(data) != wanted:
            raise Rotten
        view = memoryview(data)
        for index in range(num_groups):
            group = bytes(view[index * GROUP_BYTES : (index + 1) * GROUP_BYTES])
            expected = hashes[index * GROUP_HASH_BYTES : (index + 1) * GROUP_HASH_BYTES]
            if self._crypto.blake3(group) != expected:
                raise Rotten
        return data

    def _whole_file(self, row: BlobRow) -> bytes:
        assert row.file is not None
        file = OpenBlob(self._folder.path(row.file))
        try:
            with unreadable_is_rotten():
                return file.read(row.size, 0)
        finally:
            file.close()

    def _verified(self, row: BlobRow, blob: Multihash, data: bytes | None) -> bytes:
        """Raises Rotten: it is missing, or is not what both hashes say."""
        if data is None or len(data) != row.size or self._crypto.blake3(data) != row.digest:
            raise Rotten
        if blob.type is HashType.SHA256 and hashlib.sha256(data).digest() != blob.digest:
            raise Rotten
        return data

    async def _lost_file(self, row: BlobRow, blob: Multihash) -> None:
        """A file is gone. Return if the blob was collected or stored anew: look again then.

        Raises:
            CorruptBlob: the row still names that file.
        """
        current = await self._db.read(lambda connection: find_blob(connection, blob))
        if current is not None and (current.id, current.file) == (row.id, row.file):
            raise await self.quarantine(row)

    async def _in_thread(self, fn: Callable[[], T]) -> T:
        return await to_thread.run_sync(fn, limiter=self._threads)


@contextmanager
def unreadable_is_rotten() -> Generator[None]:
    """What the disk cannot read is as good as wrong; what keeps this process from it is not.

    Raises:
        Rotten, FileNotFoundError, StorageError.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as exc:
        if exc.errno == errno.EIO:
            raise Rotten from exc
        raise StorageError(f"a blob cannot be read: {exc}; see what keeps this process") from exc
