"""Content identifiers: S5 blob identifiers and the libp2p CIDs of models.

An S5 blob identifier is `5b 82 | hash type | hash (32 bytes) | size`, the size little-endian with
its trailing zero bytes cut off and at least one byte. The hash type is `1e` (BLAKE3) or `12`
(SHA-256). Read as well are the identifiers of earlier releases, which begin with `26`, and `1f` for
BLAKE3, which they and some portals write; what we write has one form a blob. Portals and era-C
clients take the base 32 form ("blobb...") and the base 58 form ("z...").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from fabstir.primitives.encoding import decode_multibase, encode_multibase
from fabstir.primitives.ids import ModelId, to_bytes

_BLOB_MAGIC = b"\x5b\x82"
_LEGACY_MAGIC = b"\x26"
_MAX_SIZE_BYTES = 8
_RAW_CID_V1 = b"\x01\x55"
_KECCAK_256_MULTIHASH = b"\x1b\x20"
_SHA_256_MULTIHASH = b"\x12\x20"


class HashType(IntEnum):
    """The first byte of a multihash of S5."""

    SHA256 = 0x12
    BLAKE3 = 0x1E


_WIRE_HASH_TYPES = {0x12: HashType.SHA256, 0x1E: HashType.BLAKE3, 0x1F: HashType.BLAKE3}
"""Peers of S5 write BLAKE3 both as 1e and, the older ones, as 1f."""


@dataclass(frozen=True, slots=True)
class Multihash:
    """What bytes hash to, without their length: what nodes of S5 ask each other for.

    Attributes:
        digest: 32 bytes.
    """

    digest: bytes
    type: HashType = HashType.BLAKE3

    def __post_init__(self) -> None:
        if len(self.digest) != 32:
            raise ValueError(f"digests have 32 bytes, not {len(self.digest)}")

    def to_bytes(self) -> bytes:
        """33 bytes: type, digest."""
        return bytes([self.type]) + self.digest

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Raises ValueError: not 33 bytes of a known type."""
        if len(raw) != 33 or raw[0] not in _WIRE_HASH_TYPES:
            raise ValueError("a multihash of S5 has 33 bytes and begins with 12, 1e or 1f")
        return cls(bytes(raw[1:]), _WIRE_HASH_TYPES[raw[0]])

    def encode(self) -> str:
        """The bare hash as S5.js knows it: 53 characters of base 32, without type and size.

        Raises:
            ValueError: not BLAKE3, which is what a bare hash means.
        """
        if self.type is not HashType.BLAKE3:
            raise ValueError("only a BLAKE3 hash has a form without its type")
        return encode_multibase(self.digest, "b")

    @classmethod
    def decode(cls, text: str) -> Self:
        """Multibase text of 32 bytes, the BLAKE3 of a blob, or of a multihash's 33.

        Raises:
            ValueError: of neither length, or not multibase; never another error.
        """
        raw = decode_multibase(text)
        return cls(raw) if len(raw) == 32 else cls.from_bytes(raw)


@dataclass(frozen=True, slots=True)
class BlobId:
    """The identifier of a blob: what it hashes to, and how long it is.

    Attributes:
        digest: 32 bytes, the hash of the whole blob.
        size: bytes, below 2^64.
    """

    digest: bytes
    size: int
    type: HashType = HashType.BLAKE3

    def __post_init__(self) -> None:
        if len(self.digest) != 32:
            raise ValueError(f"digests have 32 bytes, not {len(self.digest)}")
        if not 0 <= self.size < 1 << 64:
            raise ValueError(f"{self.size} is not a size in bytes")

    @property
    def multihash(self) -> Multihash:
        """The identifier without its size."""
        return Multihash(self.digest, self.type)

    def to_bytes(self) -> bytes:
        """36 to 43 bytes; the size keeps at least one byte, so that size 0 has a form."""
        size = self.size.to_bytes(_MAX_SIZE_BYTES, "little").rstrip(b"\0") or b"\0"
        return _BLOB_MAGIC + bytes([self.type]) + self.digest + size

    def encode(self, base: str = "b") -> str:
        """Multibase text; the base 32 form always starts with "blobb"."""
        return encode_multibase(self.to_bytes(), base)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the form of today and that of earlier releases.

        Raises:
            ValueError: another type, a cut-off digest, or a size that is not minimal.
        """
        magic = next((m for m in (_BLOB_MAGIC, _LEGACY_MAGIC) if raw.startswith(m)), None)
        hash_type = None if magic is None else _WIRE_HASH_TYPES.get((raw[len(magic) :] or b"\0")[0])
        if magic is None or hash_type is None:
            raise ValueError("not an S5 blob identifier with a BLAKE3 or SHA-256 hash")
        start = len(magic) + 1
        digest, size = raw[start : start + 32], raw[start + 32 :]
        # s5-rs writes size 0 in no byte, S5.js in one.
        if len(digest) != 32 or len(size) > _MAX_SIZE_BYTES:
            raise ValueError("S5 blob identifiers end with 32 bytes of hash and 0 to 8 of size")
        if len(size) > 1 and size[-1] == 0:
            raise ValueError("the size of an S5 blob identifier ends without zero bytes")
        return cls(digest, int.from_bytes(size, "little"), hash_type)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Any of the five multibase forms. Raises ValueError, never another error."""
        return cls.from_bytes(decode_multibase(text))


def model_cid(model_id: ModelId) -> bytes:
    """CIDv1, codec raw, multihash keccak-256: the model id itself as a content identifier."""
    return _RAW_CID_V1 + _KECCAK_256_MULTIHASH + to_bytes(model_id)


def model_cid_sha256(model_id: ModelId) -> bytes:
    """CIDv1, codec raw, multihash sha2-256 of the model id's 32 bytes: for DHT servers that know no
    other hash."""
    return _RAW_CID_V1 + _SHA_256_MULTIHASH + hashlib.sha256(to_bytes(model_id)).digest()
