"""Writing: bytes in pieces become a verified, durable, pinned blob, or leave nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from sqlalchemy import Connection

from fabstir.db import Database
from fabstir.primitives.cid import BlobId, HashType, Multihash
from fabstir.primitives.errors import BlobTooLarge, HashMismatch, QuotaExceeded, StorageFull
from fabstir.protocol.crypto import Crypto
from fabstir.s5.store._files import IncomingFile, StoreFolder, disk_errors
from fabstir.s5.store._hashing import GROUP_BYTES
from fabstir.s5.tables.blobs import (
    BlobRow,
    Content,
    doom,
    find_blob,
    forget_doomed,
    insert_blob,
    load_doomed,
    name_by_sha256,
    replace_bytes,
)
from fabstir.s5.tables.pins import (
    WHOLE_STORE,
    StoreUsage,
    add_usage,
    insert_first_pin,
    insert_pin,
    load_usage,
)

T = TypeVar("T")

_Block = list[memoryview]
"""Pieces that are written and hashed together."""

_END: Final[_Block] = []

MAX_INLINE_BYTES: Final = 128 * 1024 - 1
"""Longest blob in the database. Below it a row is faster to write and read than a file of its
own, which costs at least a block, a name and three flushes: 0.8 ms against 2.0 at this length. And
directories of up to 500 files stay below it."""

_STREAM_BLOCK_BYTES: Final = 4 * GROUP_BYTES
"""1 MiB of a stream is gathered, then written and hashed in a worker thread."""

_SMALL_PIECE_BYTES: Final = 16 * 1024
"""Shorter pieces are joined: a stream of single bytes would need forty times its own memory."""

_WHOLE_BLOCK_BYTES: Final = 16 * GROUP_BYTES
"""What is in memory anyway is written 4 MiB at a time, so that a cancelled put ends soon."""


Note = Callable[[Connection, BlobId], None]


def unnoted(_connection: Connection, _blob: BlobId) -> None:
    """Nothing else is written."""


_SWEEP_PAGE: Final = 1024
"""Names in one statement: SQLite takes 32,766, and a disk that fails for days leaves more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """What is wanted of one write.

    Attributes:
        note: what else is written in the transaction that stores and pins.
        may_use_reserve: whether it may have the room that is kept for removals.
    """

    owner: str
    reason: str
    expected: Multihash | None
    max_bytes: int | None = None
    note: Note = unnoted
    may_use_reserve: bool = False


@dataclass(slots=True, kw_only=True)
class BlobWriter:
    """Takes blobs in."""

    db: Database
    folder: StoreFolder
    crypto: Crypto
    threads: CapacityLimiter
    hashers: Executor
    max_bytes: int | None
    clock: Callable[[], float]

    async def put(self, data: bytes | AsyncIterable[bytes], wanted: Put) -> BlobId:
        """Store and pin."""
        blocks = _slices(data) if isinstance(data, bytes) else _gathered(data)
        async with aclosing(blocks):
            first = await anext(blocks, _END)
            size = _size(first)
            self._check_length(size, wanted.max_bytes)
            if size <= MAX_INLINE_BYTES:  # shorter than a block, so there is no second one
                return await self._put_small(b"".join(first), wanted)
            return await self._put_large(first, blocks, wanted)

    async def adopt(self, file: Path, wanted: Put) -> BlobId:
        """Store and pin a finished file, which then has no name of its own any more.

        Until the commit it has both names: a kill leaves it where it was, or a blob.
        """
        incoming = self._incoming(wanted)
        try:
            size = await self._in_thread(lambda: incoming.link(file))
            if size is None or size <= MAX_INLINE_BYTES:
                blob = await self.put(_pieces_of(file), wanted)
            else:
                while await self._in_thread(incoming.hash_next):
                    pass
                blob = await self._complete(incoming, _END, wanted)
        finally:
            await self._discard(incoming)
        with anyio.CancelScope(shield=True), disk_errors(file):
            await self._in_thread(lambda: file.unlink(missing_ok=True))
        return blob

    async def sweep(self, files: Sequence[str] | None = None) -> None:
        """Remove the doomed ones of `files`, or all; what a blob names by now stays."""

        def still_doomed(connection: Connection) -> list[str]:
            return load_doomed(connection, files)

        # Through the writer, which runs it after whatever may still be queued for these files.
        doomed = await self.db.write(still_doomed, durable=False)
        for start in range(0, len(doomed), _SWEEP_PAGE):
            page = doomed[start : start + _SWEEP_PAGE]
            await self._in_thread(lambda page=page: self.folder.remove(page))
            await self.db.write(lambda c, page=page: forget_doomed(c, page), durable=False)

    async def _put_small(self, data: bytes, wanted: Put) -> BlobId:
        content = Content(
            digest=self.crypto.blake3(data),
            size=len(data),
            sha256=hashlib.sha256(data).digest() if _is_sha256(wanted.expected) else None,
            data=data,
        )
        blob = self._identify(content, wanted.expected)
        with anyio.CancelScope(shield=True):
            await self._write(lambda c: self._keep(c, content, wanted), wanted)
        return blob

    async def _write(self, fn: Callable[[Connection], T], wanted: Put) -> T:
        if wanted.may_use_reserve:
            return await self.make_room(fn, durable=True)
        return await self.db.write(fn, durable=True)

    async def make_room(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        """See `BlobStore.make_room`."""
        try:
            return await self.db.write(fn, durable=durable)
        except StorageFull:
            if not await self._in_thread(self.folder.reserve.spend):
                raise
            return await self.db.write(fn, durable=durable)

    async def _put_large(self, first: _Block, rest: AsyncIterator[_Block], wanted: Put) -> BlobId:
        incoming = self._incoming(wanted)
        try:
            last = await self._receive(incoming, first, rest, wanted)
            return await self._complete(incoming, last, wanted)
        finally:
            await self._discard(incoming)

    def _incoming(self, wanted: Put) -> IncomingFile:
        is_sha256 = _is_sha256(wanted.expected)
        return IncomingFile(self.folder, self.hashers, has_sha256=is_sha256)

    async def _discard(self, incoming: IncomingFile) -> None:
        if not incoming.is_installed:
            with anyio.CancelScope(shield=True):
                await self._in_thread(incoming.discard)

    async def _complete(self, incoming: IncomingFile, last: _Block, wanted: Put) -> BlobId:
        content = await self._in_thread(lambda: incoming.finish(last))
        blob = self._identify(content, wanted.expected)
        with anyio.CancelScope(shield=True):
            await self._install(incoming, content, wanted)
        return blob

    async def _receive(
        self,
        incoming: IncomingFile,
        first: _Block,
        rest: AsyncIterator[_Block],
        wanted: Put,
    ) -> _Block:
        """Write all blocks but the last one, which is returned."""
        size, block = _size(first), first
        writing: asyncio.Future[None] | None = None
        self.check_room(size, may_use_reserve=wanted.may_use_reserve)
        usage: StoreUsage | None = None
        while following := await anext(rest, _END):
            usage = usage or await self.db.read(lambda c: load_usage(c, wanted.owner))
            size += _size(following)
            self._check_length(size, wanted.max_bytes)
            # Only what can never fit is refused early: bytes that are here already cost nothing,
            # and whether they are is known at the end.
            if usage.max_bytes is not None and size > usage.max_bytes:
                raise QuotaExceeded(wanted.owner, usage.max_bytes, size)
            self.check_room(size, may_use_reserve=wanted.may_use_reserve)
            # The next block is read while this one is written and hashed.
            if writing is not None:
                await writing
            writing = self._begin(lambda block=block: incoming.write(block))
            block = following
        if writing is not None:
            await writing
        return block

    def _begin(self, fn: Callable[[], None]) -> asyncio.Future[None]:
        """Run a step in a thread now. A caller that fails or is cancelled before it has awaited it
        waits for it in `IncomingFile.discard`, which lets no later step do anything.
        """
        running = asyncio.ensure_future(self._in_thread(fn))
        running.add_done_callback(_retrieved)
        return running

    async def _install(self, incoming: IncomingFile, content: Content, wanted: Put) -> None:
        """Name the file and commit its row. Whatever happens, afterwards every file has a row."""
        name = self.folder.new_name(content.digest)
        content = replace(content, file=name)
        await self.db.write(lambda connection: doom(connection, [name]), durable=False)
        try:
            await self._in_thread(lambda: incoming.install(name))
            unnamed = await self._write(lambda c: self._keep(c, content, wanted), wanted)
        except BaseException:
            await self._in_thread(incoming.discard)  # no renaming after the sweep
            await self.sweep([name])
            raise
        if unnamed is not None:
            await self.sweep([unnamed])

    def _keep(self, connection: Connection, content: Content, wanted: Put) -> str | None:
        """The transaction that stores and pins. Returns the file that no blob names after it."""
        wanted.note(connection, self._identify(content, wanted.expected))
        now = self.clock()
        row = find_blob(connection, Multihash(content.digest))
        if row is None:
            row = insert_blob(connection, content, now)
            total = add_usage(connection, WHOLE_STORE, 1, content.size)
            self.check_room(total.num_bytes, may_use_reserve=wanted.may_use_reserve)
            insert_first_pin(connection, wanted.owner, row, wanted.reason, now)
            return None
        unnamed = content.file
        if row.is_bad or not self._is_there(row):
            unnamed = row.file
            replace_bytes(connection, row, content)
        if content.sha256 is not None and row.sha256 is None:
            name_by_sha256(connection, row, content.sha256)
        insert_pin(connection, wanted.owner, row, wanted.reason, now)
        return unnamed

    def _is_there(self, row: BlobRow) -> bool:
        return row.file is None or self.folder.has(row.file, row.size)

    def check_room(self, num_bytes: int, *, may_use_reserve: bool = False) -> None:
        """Raises StorageFull: the store may not hold so much, or its disk is full."""
        if not may_use_reserve:
            self.folder.require_reserve()
        if self.max_bytes is not None and num_bytes > self.max_bytes:
            raise StorageFull(
                f"{self.folder.root} may hold {self.max_bytes} bytes and would hold {num_bytes}: "
                "nothing of the blob is kept; unpin and collect what is no longer needed, or "
                "raise s5.max_bytes"
            )

    @staticmethod
    def _check_length(size: int, max_bytes: int | None) -> None:
        if max_bytes is not None and size > max_bytes:
            raise BlobTooLarge(max_bytes)

    @staticmethod
    def _identify(content: Content, expected: Multihash | None) -> BlobId:
        """The identifier of the kind that was asked for.

        Raises:
            HashMismatch: it is not the expected one.
        """
        blob = BlobId(content.digest, content.size)
        if content.sha256 is not None:
            blob = BlobId(content.sha256, content.size, HashType.SHA256)
        if expected is not None and blob.digest != expected.digest:
            raise HashMismatch(expected.digest.hex(), blob.digest.hex())
        return blob

    async def _in_thread(self, fn: Callable[[], T]) -> T:
        return await to_thread.run_sync(fn, limiter=self.threads)


def _retrieved(running: asyncio.Future[None]) -> None:
    """Somebody has looked at its error, if it has one: else asyncio would log it."""
    if not running.cancelled():
        running.exception()


def _is_sha256(name: Multihash | None) -> bool:
    return name is not None and name.type is HashType.SHA256


def _size(block: _Block) -> int:
    return sum(len(piece) for piece in block)


async def _pieces_of(file: Path) -> AsyncIterator[bytes]:
    with disk_errors(file):
        async with await anyio.open_file(file, "rb") as stream:
            while piece := await stream.read(_STREAM_BLOCK_BYTES):
                yield piece


async def _slices(data: bytes) -> AsyncGenerator[_Block]:
    view = memoryview(data)
    for start in range(0, len(data), _WHOLE_BLOCK_BYTES):
        yield [view[start : start + _WHOLE_BLOCK_BYTES]]


async def _gathered(pieces: AsyncIterable[bytes]) -> AsyncGenerator[_Block]:
    """Blocks of at least 1 MiB, the last one maybe shorter; large pieces are not copied."""
    block: _Block = []
    small, size = bytearray(), 0
    async for piece in pieces:
        size += len(piece)
        if len(piece) < _SMALL_PIECE_BYTES:
            small += piece
        else:
            block += [memoryview(bytes(small)), memoryview(piece)] if small else [memoryview(piece)]
            small.clear()
        if size >= _STREAM_BLOCK_BYTES:
            yield [*block, memoryview(bytes(small))]
            block, size = [], 0
            small.clear()
    if size:
        yield [*block, memoryview(bytes(small))]
