"""Directory CIDs: capabilities to read a directory, or also to write it.

    5d ed key32                       mutable, in clear: its registry entry says where its bytes are
    5d 1e hash32                      fixed, in clear: these bytes, for ever
    5d 5e ALG key32 (ed key32 | 1e hash32)    the same two, encrypted with the key before them

ALG is a6 (XChaCha20-Poly1305) in the code of S5.js and Dart nodes, and e4 in their documents: both
are read, a6 is written. Whoever has the text can read the directory and everything below it; with
the write key, in the `fs5://write:KEY@CID` of S5.js, change it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from fabstir.primitives.encoding import decode_multibase, encode_multibase
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.bytes_reader import Reader
from fabstir.s5.formats.derivation import KEY_BYTES, DirectoryKeys
from fabstir.s5.formats.directory import DirRef, LinkKind

_DIRECTORY = 0x5D
_ENCRYPTED = 0x5E
_XCHACHA20_POLY1305 = 0xA6
_ALGORITHMS = {_XCHACHA20_POLY1305, 0xE4}
_LEGACY_BLAKE3 = 0x1F

_SCHEME: Final = "fs5://"
_WRITE: Final = "write:"
_WRITE_KEY_PREFIX = b"\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryCid:
    """Where a directory is, and the key that opens it.

    Attributes:
        link: 32 bytes, a hash or an ed25519 key as `kind` says.
        encryption_key: 32 bytes; None: the directory is in clear.
    """

    kind: LinkKind
    link: bytes
    encryption_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for key in (self.link, self.encryption_key):
            if key is not None and len(key) != KEY_BYTES:
                raise ValueError(f"keys and hashes have {KEY_BYTES} bytes, not {len(key)}")

    @classmethod
    def of(cls, ref: DirRef) -> Self:
        """The CID of a directory that another directory names."""
        return cls(kind=ref.kind, link=ref.link, encryption_key=ref.encryption_key)

    def to_bytes(self) -> bytes:
        """34 bytes in clear, 68 encrypted."""
        key = self.encryption_key
        sealing = b"" if key is None else bytes([_ENCRYPTED, _XCHACHA20_POLY1305]) + key
        return bytes([_DIRECTORY]) + sealing + bytes([self.kind.value]) + self.link

    def encode(self, base: str = "b") -> str:
        """Multibase text: `f`, `b`, `z` or `u`."""
        return encode_multibase(self.to_bytes(), base)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read every form.

        Raises:
            RemoteProtocolError: not a directory's CID, or of an unknown algorithm.
        """
        reader = Reader(raw, "a directory's CID")
        reader.expect(bytes([_DIRECTORY]))
        tag = reader.number(1, "little")
        key = None
        if tag == _ENCRYPTED:
            algorithm = reader.number(1, "little")
            if algorithm not in _ALGORITHMS:
                raise RemoteProtocolError(
                    f"a directory's CID names the encryption {algorithm:02x}; a6 is known"
                )
            key = reader.take(KEY_BYTES)
            tag = reader.number(1, "little")
        link = reader.take(KEY_BYTES)
        reader.end()
        return cls(kind=_kind(tag), link=link, encryption_key=key)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Any of the four multibase forms. Raises RemoteProtocolError, never another error."""
        return cls.from_bytes(_decode_text(text))


def _kind(tag: int) -> LinkKind:
    if tag == _LEGACY_BLAKE3:
        return LinkKind.FIXED
    try:
        return LinkKind(tag)
    except ValueError as exc:
        raise RemoteProtocolError(
            f"a directory's CID links by {tag:02x}; ed (a key) and 1e (a hash) are known"
        ) from exc


def _decode_text(text: str) -> bytes:
    try:
        return decode_multibase(text)
    except ValueError as exc:
        raise RemoteProtocolError(f"not multibase text: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Capability:
    """What somebody may do with a directory: read it, or with the write key change it.

    Attributes:
        write_key: the ed25519 seed of the directory's registry entry; None: read only.
    """

    cid: DirectoryCid
    write_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def of_keys(cls, keys: DirectoryKeys, *, writable: bool) -> Self:
        """The capability of an encrypted, mutable directory, by its derived keys."""
        cid = DirectoryCid(
            kind=LinkKind.MUTABLE, link=keys.public_key, encryption_key=keys.encryption_key
        )
        return cls(cid, keys.write_key if writable else None)

    def encode(self) -> str:
        """The CID alone, or `fs5://write:KEY@CID`."""
        if self.write_key is None:
            return self.cid.encode()
        key = encode_multibase(_WRITE_KEY_PREFIX + self.write_key, "u")
        return f"{_SCHEME}{_WRITE}{key}@{self.cid.encode()}"

    @classmethod
    def decode(cls, text: str, crypto: Crypto) -> Self:
        """Read a CID, `fs5://CID` or `fs5://write:KEY@CID`.

        Raises:
            RemoteProtocolError: none of these, or a write key that belongs to another directory.
        """
        before, at, cid_text = text.removeprefix(_SCHEME).rpartition("@")
        cid = DirectoryCid.decode(cid_text)
        if not at:
            return cls(cid)
        if not before.startswith(_WRITE) or not text.startswith(_SCHEME):
            raise RemoteProtocolError("capabilities are CID, fs5://CID or fs5://write:KEY@CID")
        write_key = _read_write_key(before.removeprefix(_WRITE))
        if cid.kind is not LinkKind.MUTABLE or crypto.ed25519_public_key(write_key) != cid.link:
            raise RemoteProtocolError("the write key of a capability belongs to another directory")
        return cls(cid, write_key)


def _read_write_key(text: str) -> bytes:
    reader = Reader(_decode_text(text), "a write key")
    reader.expect(_WRITE_KEY_PREFIX)
    key = reader.take(KEY_BYTES)
    reader.end()
    return key
