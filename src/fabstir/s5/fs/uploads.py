"""Storing content, and making the change that names it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from fabstir.s5.formats.directory import FileRef
from fabstir.s5.fs.changes import PutFile
from fabstir.s5.fs.contents import Data, Stored, prepare_content, store_content
from fabstir.s5.fs.directories import Directories
from fabstir.s5.fs.media_types import guess_media_type
from fabstir.s5.fs.ownership import own_blobs
from fabstir.s5.fs.paths import Segments, format_path
from fabstir.s5.fs.running import Write
from fabstir.s5.fs.together import Unstored, put_all
from fabstir.s5.fs.values import split_time

SHORT_BYTES: Final = 64 * 1024
"""Content that is stored together with other blobs; a longer one takes its own time anyway."""


async def gather_short(data: Data) -> Data:
    """A content that turns out to be short as bytes; a longer stream as it is."""
    if isinstance(data, bytes):
        return data
    pieces = aiter(data)
    head = bytearray()
    async for piece in pieces:
        head += piece
        if len(head) > SHORT_BYTES:
            return _continued(bytes(head), pieces)
    return bytes(head)


async def _continued(head: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield head
    async for piece in rest:
        yield piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a writer asks for besides the content; see `FileSystem.put`."""

    segments: Segments
    media_type: str | None
    if_match: str | None
    if_none_match: bool
    encrypt: bool


class Uploads:
    """Stores the content of files."""

    def __init__(
        self, directories: Directories, clock: Callable[[], float], max_versions: int
    ) -> None:
        self._directories = directories
        self._clock = clock
        self._max_versions = max_versions

    async def store(self, wish: Wish, data: Data, write: Write) -> PutFile:
        """Store a content; the change that makes it a file.

        Raises:
            StorageFull, QuotaExceeded, PortalError: nothing is kept.
        """
        stored = await store_content(
            self._directories.blobs,
            data,
            reason=self._directories.reason("file"),
            encrypt=wish.encrypt,
            crypto=self._directories.crypto,
            random=self._directories.random,
        )
        return self._change(wish, stored, write)

    def prepare(self, wish: Wish, data: bytes, write: Write) -> tuple[Unstored, PutFile]:
        """The blob to store with others, and the change that makes it a file then."""
        prepared = prepare_content(
            data,
            encrypt=wish.encrypt,
            crypto=self._directories.crypto,
            random=self._directories.random,
        )
        change = self._change(wish, prepared.stored, write)
        is_own = any(own_blobs(change.file))
        unstored = Unstored(prepared.data, self._directories.reason("file"), is_own=is_own)
        return unstored, change

    async def store_all(self, unstored: list[Unstored]) -> None:
        """Store many short contents together. Raises as `store`; some may be kept then."""
        await put_all(self._directories.blobs, unstored)

    def _change(self, wish: Wish, stored: Stored, write: Write) -> PutFile:
        write.stored.add(stored.blob.multihash)
        seconds, nanos = split_time(self._clock())
        file = FileRef(
            hash=stored.blob.digest,
            size=stored.size,
            media_type=wish.media_type or guess_media_type(wish.segments[-1]),
            timestamp=seconds,
            timestamp_nanos=nanos,
            encryption=stored.encryption,
        )
        return PutFile(
            path=format_path(wish.segments),
            file=file,
            max_versions=self._max_versions,
            if_match=wish.if_match,
            if_none_match=wish.if_none_match,
        )
