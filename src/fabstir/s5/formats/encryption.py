"""Encryption of blobs: small mutable ones, and large immutable ones.

A mutable blob is `8d 01 | nonce24 | XChaCha20-Poly1305(length (u32 LE) | data | zeros)`, padded so
that its whole size says little. An immutable one is a sequence of chunks of 256 KiB, each sealed
with its index as the nonce (24 bytes LE) and 16 bytes longer than its plaintext: its key must be
random, and used for no second content. Chunks say nothing of how many there are, so a blob is only
believed with its hash or its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.crypto import Crypto, DecryptionError
from fabstir.s5.formats.bytes_reader import Reader
from fabstir.s5.formats.limits import CHUNK_BYTES, MAX_HAMT_NODE_BYTES

NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16
SEALED_CHUNK_BYTES: Final = CHUNK_BYTES + TAG_BYTES

MUTABLE_HEADER: Final = b"\x8d\x01"
"""What every mutable encrypted blob begins with; a directory in clear begins with 5f 5d."""

_LENGTH_BYTES = 4
MUTABLE_OVERHEAD_BYTES: Final = len(MUTABLE_HEADER) + NONCE_BYTES + _LENGTH_BYTES + TAG_BYTES

_MIN_BLOCK_BYTES = 4096
_BLOCKS = 20
"""A size is padded to a multiple of the smallest block of which it has at most twenty: 5 %."""


def padded_size(num_bytes: int) -> int:
    """The size to which `num_bytes` are padded: Skynet's rule, at most 5 % above 80 KiB."""
    block = _MIN_BLOCK_BYTES
    while num_bytes > block * _BLOCKS:
        block *= 2
    return -(-num_bytes // block) * block


def seal_mutable(data: bytes, key: bytes, nonce: bytes, crypto: Crypto) -> bytes:
    """Encrypt and pad a blob that its owner rewrites.

    Args:
        nonce: 24 random bytes, fresh for every call.
    """
    size = padded_size(len(data) + MUTABLE_OVERHEAD_BYTES) - MUTABLE_OVERHEAD_BYTES
    plaintext = len(data).to_bytes(_LENGTH_BYTES, "little") + data + bytes(size - len(data))
    return MUTABLE_HEADER + nonce + crypto.seal(key, nonce, b"", plaintext)


def open_mutable(
    sealed: bytes, key: bytes, crypto: Crypto, *, max_bytes: int = MAX_HAMT_NODE_BYTES
) -> bytes:
    """The inverse of `seal_mutable`; unpadded blobs are read too.

    Raises:
        RemoteProtocolError: another format, longer than `max_bytes`, a length that lies; with the
            code DECRYPTION_FAILED where the key is wrong or the bytes were changed.
    """
    if len(sealed) > max_bytes:
        raise RemoteProtocolError(
            f"an encrypted blob has {len(sealed)} bytes; at most {max_bytes} are opened in memory"
        )
    reader = Reader(sealed, "an encrypted blob")
    reader.expect(MUTABLE_HEADER)
    nonce = reader.take(NONCE_BYTES)
    plaintext = _open(key, nonce, reader.rest(), crypto)
    inner = Reader(plaintext, "the plaintext of an encrypted blob")
    return inner.take(inner.number(_LENGTH_BYTES, "little"))


def is_sealed_mutable(blob: bytes) -> bool:
    """Whether a blob says that it is encrypted this way."""
    return blob.startswith(MUTABLE_HEADER[:1])


def _open(key: bytes, nonce: bytes, ciphertext: bytes, crypto: Crypto) -> bytes:
    try:
        return crypto.open(key, nonce, b"", ciphertext)
    except DecryptionError as exc:
        raise RemoteProtocolError(
            "the blob does not open with this key: the key is another one's, or the blob was "
            "changed",
            code="DECRYPTION_FAILED",
        ) from exc


def seal_chunk(key: bytes, index: int, plaintext: bytes, crypto: Crypto) -> bytes:
    """Encrypt one chunk of an immutable blob: 16 bytes longer than it was.

    Raises:
        ValueError: the chunk is longer than CHUNK_BYTES.
    """
    if len(plaintext) > CHUNK_BYTES:
        raise ValueError(f"chunks have at most {CHUNK_BYTES} bytes, not {len(plaintext)}")
    return crypto.seal(key, _chunk_nonce(index), b"", plaintext)


def open_chunk(key: bytes, index: int, sealed: bytes, crypto: Crypto) -> bytes:
    """Decrypt one chunk.

    Raises:
        RemoteProtocolError: too long; with the code DECRYPTION_FAILED where the key or the index
            is another one's, or the bytes were changed.
    """
    if len(sealed) > SEALED_CHUNK_BYTES:
        raise RemoteProtocolError(
            f"sealed chunks have at most {SEALED_CHUNK_BYTES} bytes, not {len(sealed)}"
        )
    return _open(key, _chunk_nonce(index), sealed, crypto)


def _chunk_nonce(index: int) -> bytes:
    return index.to_bytes(NONCE_BYTES, "little")


def sealed_size(num_bytes: int) -> int:
    """The ciphertext's size of `num_bytes` of plaintext, padding included; nothing of nothing."""
    return num_bytes + TAG_BYTES * -(-num_bytes // CHUNK_BYTES)


def opened_size(num_bytes: int) -> int:
    """The plaintext's size of `num_bytes` of ciphertext.

    Raises:
        RemoteProtocolError: no plaintext has such a ciphertext.
    """
    num_chunks = -(-num_bytes // SEALED_CHUNK_BYTES)
    size = num_bytes - TAG_BYTES * num_chunks
    if size < 0 or sealed_size(size) != num_bytes:
        raise RemoteProtocolError(f"no sequence of sealed chunks has {num_bytes} bytes")
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRange:
    """The chunks that hold a range of plaintext.

    Attributes:
        first, end: indexes of chunks; `end` is not included.
        sealed_start, sealed_end: the bytes of the ciphertext to fetch.
        skip: bytes of the first opened chunk that lie before the range.
        length: bytes of the range.
    """

    first: int
    end: int
    sealed_start: int
    sealed_end: int
    skip: int
    length: int


def chunks_of(start: int, end: int, num_sealed_bytes: int) -> ChunkRange:
    """Which chunks to fetch for a range of plaintext.

    Args:
        start, end: bytes of the plaintext; `end` is not included.
        num_sealed_bytes: the whole ciphertext.

    Raises:
        ValueError: the range does not lie inside the plaintext.
        RemoteProtocolError: no sequence of chunks has `num_sealed_bytes`.
    """
    size = opened_size(num_sealed_bytes)
    if not 0 <= start <= end <= size:
        raise ValueError(f"bytes {start} to {end} do not lie inside a plaintext of {size}")
    if start == end:
        return ChunkRange(first=0, end=0, sealed_start=0, sealed_end=0, skip=0, length=0)
    first = start // CHUNK_BYTES
    last = -(-end // CHUNK_BYTES)
    return ChunkRange(
        first=first,
        end=last,
        sealed_start=first * SEALED_CHUNK_BYTES,
        sealed_end=min(last * SEALED_CHUNK_BYTES, num_sealed_bytes),
        skip=start - first * CHUNK_BYTES,
        length=end - start,
    )
