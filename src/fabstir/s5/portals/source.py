"""Bytes on their way to a portal: of a known hash and length, and readable again from any place."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fabstir.crypto import Blake3
from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import StorageError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.portals.spool import open_spool

PIECE_BYTES: Final = 256 * 1024
"""Bytes of one read and one write."""

OnBytesFetched = Callable[[int, int], None]
"""Gets the bytes done so far and all of them."""


class Hasher(Protocol):
    """BLAKE3 or SHA-256 of bytes that come in pieces."""

    def update(self, data: bytes, /) -> object: ...
    def digest(self) -> bytes: ...


def new_hasher(hash_type: HashType) -> Hasher:
    """The hash function of a multihash."""
    return Blake3() if hash_type is HashType.BLAKE3 else hashlib.sha256()


@dataclass(frozen=True, slots=True)
class UploadSource:
    """What is to be uploaded.

    Attributes:
        blob: its hash and length, known beforehand: a resumable upload begins with them.
        read: an iterator over the bytes from an offset on; called again after every interruption.
    """

    blob: BlobId
    read: Callable[[int], AsyncIterator[bytes]]

    async def part(self, start: int, length: int) -> AsyncGenerator[bytes]:
        """Exactly `length` bytes from `start` on.

        Raises:
            StorageError: there are fewer.
        """
        left = length
        async with aclosing(_generator(self.read(start))) as pieces:
            async for piece in pieces:
                yield piece[:left]
                left -= min(left, len(piece))
                if not left:
                    return
        if left:
            raise StorageError(
                f"blob {self.blob.encode()} ends {left} bytes early: it was changed while it was "
                "uploaded; nothing of it was acknowledged"
            )


async def _generator(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    try:
        async for piece in pieces:
            if piece:
                yield piece
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def bytes_source(data: bytes, crypto: Crypto) -> UploadSource:
    """Bytes in memory."""

    async def read(start: int) -> AsyncIterator[bytes]:
        for offset in range(start, len(data), PIECE_BYTES):
            yield data[offset : offset + PIECE_BYTES]

    return UploadSource(BlobId(crypto.blake3(data), len(data)), read)


@asynccontextmanager
async def spooled_source(
    data: AsyncIterable[bytes], folder: Path | None = None
) -> AsyncGenerator[UploadSource]:
    """Take a stream that can be read only once, so that it can be sent more than once.

    Args:
        folder: for the temporary file of a long one; None: the system's.

    Raises:
        StorageFull: the disk holds no copy.
    """
    hasher, size = Blake3(), 0
    async with open_spool(folder) as spool:
        async for piece in data:
            hasher.update(piece)
            size += len(piece)
            await spool.write(piece)

        def read(start: int) -> AsyncIterator[bytes]:
            return spool.read(start, size)

        yield UploadSource(BlobId(hasher.digest(), size), read)
