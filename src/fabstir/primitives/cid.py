"""Content identifiers: S5 blob identifiers and the libp2p CIDs of models.

An S5 blob identifier is `5b 82 | 1e | BLAKE3 (32 bytes) | size`, the size little-endian with its
trailing zero bytes cut off and at least one byte. Portals and era-C clients take its base 32
form ("blobb...") and its base 58 form ("z...").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from fabstir.primitives.encoding import decode_multibase, encode_multibase
from fabstir.primitives.ids import ModelId, to_bytes

_BLOB_MAGIC = b"\x5b\x82"
_BLAKE3 = 0x1E
_MAX_SIZE_BYTES = 8
_KECCAK_256_MULTIHASH = b"\x1b\x20"


@dataclass(frozen=True, slots=True)
class BlobId:
    """The identifier of a blob: what it hashes to, and how long it is.

    Attributes:
        blake3: 32 bytes, BLAKE3 of the whole blob.
        size: bytes, below 2^64.
    """

    blake3: bytes
    size: int

    def __post_init__(self) -> None:
        if len(self.blake3) != 32:
            raise ValueError(f"BLAKE3 digests have 32 bytes, not {len(self.blake3)}")
        if not 0 <= self.size < 1 << 64:
            raise ValueError(f"{self.size} is not a size in bytes")

    def to_bytes(self) -> bytes:
        """36 to 43 bytes; the size keeps at least one byte, so that size 0 has a form."""
        size = self.size.to_bytes(_MAX_SIZE_BYTES, "little").rstrip(b"\0") or b"\0"
        return _BLOB_MAGIC + bytes([_BLAKE3]) + self.blake3 + size

    def encode(self, base: str = "b") -> str:
        """Multibase text; the base 32 form always starts with "blobb"."""
        return encode_multibase(self.to_bytes(), base)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Raises ValueError: another type, a cut-off digest, or a size that is not minimal."""
        if raw[:2] != _BLOB_MAGIC or raw[2:3] != bytes([_BLAKE3]):
            raise ValueError("not an S5 blob identifier with a BLAKE3 hash")
        digest, size = raw[3:35], raw[35:]
        if len(digest) != 32 or not 1 <= len(size) <= _MAX_SIZE_BYTES:
            raise ValueError("S5 blob identifiers have 36 to 43 bytes")
        if len(size) > 1 and size[-1] == 0:
            raise ValueError("the size of an S5 blob identifier ends without zero bytes")
        return cls(digest, int.from_bytes(size, "little"))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Any of the four multibase forms. Raises ValueError, never another error."""
        return cls.from_bytes(decode_multibase(text))


def model_cid(model_id: ModelId) -> bytes:
    """CIDv1, codec raw, multihash keccak-256: the DHT key of a model's provider records."""
    return b"\x01\x55" + _KECCAK_256_MULTIHASH + to_bytes(model_id)
