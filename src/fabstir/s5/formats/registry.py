"""Registry entries: signed pointers with a revision, by public key; and stream messages.

An entry is `07 | ed key32 | revision (u64, little-endian) | length | data | signature64`, and the
signature covers `07 | revision | length | data`, without the key. A stream message is the same with
`08`, a big-endian revision, the multihash of its payload as data, and the payload at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from fabstir.primitives.cid import HashType, Multihash
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.bytes_reader import Reader
from fabstir.s5.formats.limits import (
    MAX_REGISTRY_DATA_BYTES,
    MAX_REVISION,
    MAX_STREAM_DATA_BYTES,
)
from fabstir.s5.formats.multikey import MULTIKEY_BYTES, decode_multikey, encode_multikey

ENTRY_PREFIX: Final = 0x07
STREAM_PREFIX: Final = 0x08

_SIGNATURE_BYTES = 64
_MULTIHASH_BYTES = 33
_LEGACY_POINTER = b"\x5a\x26"
"""How older nodes begin the data of an entry that points at a blob; a multihash follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEntry:
    """A registry entry as its owner signed it.

    Attributes:
        public_key: 32 bytes of ed25519.
        revision: the higher one wins; at most MAX_REVISION.
        data: up to 64 bytes; normally the 33 of a multihash.
        signature: 64 bytes, over `07 | revision | length | data`, without the key.
    """

    public_key: bytes
    revision: int
    data: bytes
    signature: bytes

    def verify(self, crypto: Crypto) -> None:
        """Raises RemoteProtocolError: a revision or data out of bounds, or a bad signature."""
        if not 0 <= self.revision <= MAX_REVISION:
            raise RemoteProtocolError(
                f"revision {self.revision} of a registry entry is not between 0 and {MAX_REVISION}"
            )
        if len(self.data) > MAX_REGISTRY_DATA_BYTES:
            raise RemoteProtocolError(
                f"registry entries hold at most {MAX_REGISTRY_DATA_BYTES} bytes, not "
                f"{len(self.data)}"
            )
        signed = _signed_part(self.revision, self.data)
        if not crypto.ed25519_verify(self.public_key, signed, self.signature):
            raise RemoteProtocolError("a registry entry is not signed by its key")

    def is_newer(self, than: SignedEntry | None) -> bool:
        """Whether this one replaces `than`: of equal revisions the first one stays."""
        return than is None or self.revision > than.revision

    def encode(self) -> bytes:
        """The wire form."""
        signed = _signed_part(self.revision, self.data)
        return signed[:1] + encode_multikey(self.public_key) + signed[1:] + self.signature

    @classmethod
    def decode(cls, raw: bytes, crypto: Crypto) -> Self:
        """Read and verify the wire form.

        Raises:
            RemoteProtocolError: cut off, too long, of another key type, or not signed by its key.
        """
        reader = Reader(raw, "a registry entry")
        reader.expect(bytes([ENTRY_PREFIX]))
        public_key = decode_multikey(reader.take(MULTIKEY_BYTES))
        revision = reader.number(8, "little")
        data = reader.take(reader.number(1, "little"))
        signature = reader.take(_SIGNATURE_BYTES)
        reader.end()
        entry = cls(public_key=public_key, revision=revision, data=data, signature=signature)
        entry.verify(crypto)
        return entry


def _signed_part(revision: int, data: bytes) -> bytes:
    return bytes([ENTRY_PREFIX]) + revision.to_bytes(8, "little") + bytes([len(data)]) + data


def sign_entry(seed: bytes, revision: int, data: bytes, crypto: Crypto) -> SignedEntry:
    """Sign an entry of the key that belongs to `seed`.

    Args:
        seed: 32 bytes, the ed25519 write key.
        revision: above the newest one that is published, else nobody takes the entry.

    Raises:
        ValueError: the revision or the data is out of bounds.
    """
    if not 0 <= revision <= MAX_REVISION:
        raise ValueError(f"revision {revision} is not between 0 and {MAX_REVISION}")
    if len(data) > MAX_REGISTRY_DATA_BYTES:
        raise ValueError(
            f"registry entries hold at most {MAX_REGISTRY_DATA_BYTES} bytes, not {len(data)}"
        )
    return SignedEntry(
        public_key=crypto.ed25519_public_key(seed),
        revision=revision,
        data=data,
        signature=crypto.ed25519_sign(seed, _signed_part(revision, data)),
    )


def blob_pointer(blob: Multihash) -> bytes:
    """The data of an entry that points at a blob: its multihash, 33 bytes."""
    return blob.to_bytes()


def read_blob_pointer(data: bytes) -> Multihash:
    """The blob that an entry points at. What follows the multihash is passed over, as in S5.js.

    Raises:
        RemoteProtocolError: the data is no multihash, nor the older `5a 26 | multihash`.
    """
    start = len(_LEGACY_POINTER) if data[:2] == _LEGACY_POINTER else 0
    try:
        return Multihash.from_bytes(data[start : start + _MULTIHASH_BYTES])
    except ValueError as exc:
        raise RemoteProtocolError(f"a registry entry points at no blob: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMessage:
    """One message of a stream: payloads under one key, ordered by revision.

    Attributes:
        public_key: 32 bytes of ed25519.
        revision: below 2^64; its upper half is a sequence number or a time, its lower half a
            nonce.
        payload_hash: the digest of the payload, 32 bytes of BLAKE3.
        signature: 64 bytes, over `08 | revision | 21 | multihash`.
        payload: None where only its hash was sent.
        hash_byte: how the sender wrote BLAKE3, 1e or 1f: it is signed.
    """

    public_key: bytes
    revision: int
    payload_hash: bytes
    signature: bytes
    payload: bytes | None = field(default=None, repr=False)
    hash_byte: int = HashType.BLAKE3

    def encode(self) -> bytes:
        """The wire form; no payload and an empty one look the same."""
        multihash = bytes([self.hash_byte]) + self.payload_hash
        signed = _signed_stream_part(self.revision, multihash)
        key = encode_multikey(self.public_key)
        return signed[:1] + key + signed[1:] + self.signature + (self.payload or b"")

    @classmethod
    def decode(cls, raw: bytes, crypto: Crypto) -> Self:
        """Read and verify the wire form.

        Raises:
            RemoteProtocolError: cut off, too long, not signed by its key, or with another payload
                than its hash says.
        """
        reader = Reader(raw, "a stream message")
        reader.expect(bytes([STREAM_PREFIX]))
        public_key = decode_multikey(reader.take(MULTIKEY_BYTES))
        revision = reader.number(8, "big")
        reader.expect(bytes([_MULTIHASH_BYTES]))
        multihash = reader.take(_MULTIHASH_BYTES)
        signature = reader.take(_SIGNATURE_BYTES)
        payload = reader.rest()
        _check_payload(multihash, payload, crypto)
        if not crypto.ed25519_verify(
            public_key, _signed_stream_part(revision, multihash), signature
        ):
            raise RemoteProtocolError("a stream message is not signed by its key")
        is_whole = payload or crypto.blake3(b"") == multihash[1:]
        return cls(
            public_key=public_key,
            revision=revision,
            payload_hash=multihash[1:],
            signature=signature,
            payload=payload if is_whole else None,
            hash_byte=multihash[0],
        )


def _check_payload(multihash: bytes, payload: bytes, crypto: Crypto) -> None:
    if len(payload) > MAX_STREAM_DATA_BYTES:
        raise RemoteProtocolError(
            f"stream messages hold at most {MAX_STREAM_DATA_BYTES} bytes, not {len(payload)}"
        )
    if multihash[0] not in {HashType.BLAKE3, 0x1F}:
        raise RemoteProtocolError("the hash of a stream message is BLAKE3 (1e or 1f)")
    if payload and crypto.blake3(payload) != multihash[1:]:
        raise RemoteProtocolError("a stream message has another payload than its hash says")


def _signed_stream_part(revision: int, multihash: bytes) -> bytes:
    header = bytes([STREAM_PREFIX]) + revision.to_bytes(8, "big")
    return header + bytes([len(multihash)]) + multihash
