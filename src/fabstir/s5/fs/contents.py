"""Files as blobs: sealed while they stream in, opened chunk by chunk while they stream out.

One chunk of 256 KiB is in memory at a time, whatever the file's size.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field

from fabstir.crypto import Blake3
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import AccessDenied, RemoteProtocolError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.directory import FileEncryption, FileRef
from fabstir.s5.formats.encryption import (
    SEALED_CHUNK_BYTES,
    chunks_of,
    open_chunk,
    seal_chunk,
    sealed_size,
)
from fabstir.s5.formats.limits import CHUNK_BYTES
from fabstir.s5.ports import Blobs

FILE_KEY_BYTES = 32

Data = bytes | AsyncIterable[bytes]
"""A file's content, whole or in pieces of any size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A content that is in a blob.

    Attributes:
        blob: of the ciphertext, where there is a key.
        size: bytes of the plaintext.
        encryption: None: the blob is the plaintext.
    """

    blob: BlobId
    size: int
    encryption: FileEncryption | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A short content that is ready to be stored: the blob's bytes, and what will be in it."""

    data: bytes
    stored: Stored


def prepare_content(
    data: bytes, *, encrypt: bool, crypto: Crypto, random: Callable[[int], bytes]
) -> Prepared:
    """Seal a content that is in memory."""
    if not encrypt:
        blob = BlobId(crypto.blake3(data), len(data))
        return Prepared(data=data, stored=Stored(blob=blob, size=blob.size, encryption=None))
    key = random(FILE_KEY_BYTES)
    chunks = range(0, len(data), CHUNK_BYTES)
    sealed = b"".join(
        seal_chunk(key, index, data[start : start + CHUNK_BYTES], crypto)
        for index, start in enumerate(chunks)
    )
    encryption = FileEncryption(key=key, plaintext_hash=crypto.blake3(data))
    blob = BlobId(crypto.blake3(sealed), len(sealed))
    return Prepared(data=sealed, stored=Stored(blob=blob, size=len(data), encryption=encryption))


@dataclass(slots=True)
class _Counted:
    """A stream's length and BLAKE3, known at its end."""

    size: int = 0
    hasher: Blake3 = field(default_factory=Blake3)

    async def pass_on(self, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            self.size += len(piece)
            self.hasher.update(piece)
            yield piece


async def store_content(
    blobs: Blobs,
    data: Data,
    *,
    reason: str,
    encrypt: bool,
    crypto: Crypto,
    random: Callable[[int], bytes],
) -> Stored:
    """Keep a content in a blob of its own.

    Raises:
        StorageFull, QuotaExceeded, PortalError: nothing is kept.
    """
    if not encrypt:
        blob = await blobs.put(data, reason=reason)
        return Stored(blob=blob, size=blob.size, encryption=None)
    key = random(FILE_KEY_BYTES)
    counted = _Counted()
    pieces = counted.pass_on(_pieces(data))
    blob = await blobs.put(_seal(pieces, key, crypto), reason=reason)
    encryption = FileEncryption(key=key, plaintext_hash=counted.hasher.digest())
    return Stored(blob=blob, size=counted.size, encryption=encryption)


def blob_of(file: FileRef) -> BlobId:
    """The blob that holds a file: what is stored, encrypted or not.

    Raises:
        RemoteProtocolError: no blob is that large.
    """
    padding = 0 if file.encryption is None else file.encryption.padding
    size = file.size + padding
    try:
        return BlobId(file.hash, size if file.encryption is None else sealed_size(size))
    except ValueError as exc:
        raise RemoteProtocolError(f"a file says that it has {size} bytes") from exc


async def read_content(
    blobs: Blobs, file: FileRef, start: int, end: int, *, crypto: Crypto
) -> AsyncGenerator[bytes]:
    """A range of a file's plaintext in pieces.

    Args:
        start, end: bytes, inside the file; `end` is not included.

    Raises:
        NotFound, CorruptBlob, PortalError: as `Blobs.read`.
        AccessDenied: the key does not open the blob.
        RemoteProtocolError: at the end: the blob is shorter than the file should be, or the whole
            file is not what its writer hashed.
    """
    if start == end:
        return
    expected = file.encryption and file.encryption.plaintext_hash
    is_checked = bool(expected) and (start, end) == (0, file.size)
    hasher = Blake3()
    num_bytes = 0
    async for piece in _range(blobs, file, start, end, crypto):
        num_bytes += len(piece)
        if is_checked:
            hasher.update(piece)
        yield piece
    if num_bytes != end - start or (is_checked and hasher.digest() != expected):
        raise RemoteProtocolError(
            f"blob {blob_of(file).encode()} does not hold what its directory says: another length, "
            "or another content than its writer hashed; take another version of the file"
        )


def _range(
    blobs: Blobs, file: FileRef, start: int, end: int, crypto: Crypto
) -> AsyncIterator[bytes]:
    if file.encryption is None:
        return blobs.read(blob_of(file), start, end)
    return _open_range(blobs, file, file.encryption.key, start, end, crypto)


async def _open_range(
    blobs: Blobs, file: FileRef, key: bytes, start: int, end: int, crypto: Crypto
) -> AsyncIterator[bytes]:
    blob = blob_of(file)
    chunks = chunks_of(start, end, blob.size)
    skip, left, index = chunks.skip, chunks.length, chunks.first
    pieces = blobs.read(blob, chunks.sealed_start, chunks.sealed_end)
    async for sealed in _regroup(pieces, SEALED_CHUNK_BYTES):
        try:
            plaintext = open_chunk(key, index, sealed, crypto)
        except RemoteProtocolError as exc:
            raise AccessDenied(
                f"chunk {index} of blob {blob.encode()} does not open with the key that its "
                "directory names: the directory was written with another file's key"
            ) from exc
        piece = plaintext[skip : skip + left]
        skip, left, index = 0, left - len(piece), index + 1
        yield piece


async def _seal(pieces: AsyncIterable[bytes], key: bytes, crypto: Crypto) -> AsyncIterator[bytes]:
    index = 0
    async for chunk in _regroup(pieces, CHUNK_BYTES):
        yield seal_chunk(key, index, chunk, crypto)
        index += 1


async def _regroup(pieces: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `size`, the last one shorter."""
    buffer = bytearray()
    async for piece in pieces:
        view = memoryview(piece)
        while len(view):
            taken = view[: size - len(buffer)]
            buffer += taken
            view = view[len(taken) :]
            if len(buffer) == size:
                yield bytes(buffer)
                buffer.clear()
    if buffer:
        yield bytes(buffer)


async def _pieces(data: Data) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for piece in data:
        yield piece
