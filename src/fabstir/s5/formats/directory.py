"""What a directory of S5 holds: files by hash, directories by link, and who they were before.

Only values; their byte forms are in `dialects`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

Cbor = (
    None
    | bool
    | int
    | float
    | str
    | bytes
    | list["Cbor"]
    | tuple["Cbor", ...]
    | Mapping["Cbor", "Cbor"]
)
"""Any CBOR value that S5 writes: no tags, no undefined."""


def _nothing() -> Mapping[Cbor, Cbor]:
    return {}


class DirectoryDialect(Enum):
    """Three writers of one format; every one is read."""

    S5JS = "s5js"
    """Byte for byte what Enhanced S5.js writes: other map headers, ICU order, floats from 2^32."""
    CANONICAL = "canonical"
    """Deterministic CBOR (RFC 8949, 4.2.1) with the keys of S5.js: what we write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEncryption:
    """How a file's blob is sealed: chunks of XChaCha20-Poly1305 (see `encryption`).

    Attributes:
        key: 32 bytes. Whoever reads the directory can read the file.
        plaintext_hash: BLAKE3 of the plaintext, or None.
        padding: zero bytes that follow the plaintext inside the ciphertext.
    """

    key: bytes = field(repr=False)
    plaintext_hash: bytes | None = None
    padding: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRef:
    """A file: which blob holds it, and what is known about it.

    Attributes:
        hash: BLAKE3 of the blob as it is stored: of the ciphertext, where the file is encrypted.
        size: bytes of the plaintext.
        timestamp, timestamp_nanos: when it was written, Unix seconds and the rest of them.
        locations: (tag, value) as S5 defines them; kept, not used.
        encryption: None: the blob is the plaintext.
        extra: what else stands beside it, encryption not included; kept as it was read. Text keys
            are those of field 22, integer keys fields that we do not know.
        prev: the file that this one replaced.
    """

    hash: bytes
    size: int
    media_type: str | None = None
    timestamp: int | None = None
    timestamp_nanos: int | None = None
    locations: tuple[tuple[int, bytes | str], ...] = ()
    encryption: FileEncryption | None = None
    extra: Mapping[Cbor, Cbor] = field(default_factory=_nothing)
    prev: FileRef | None = None


class LinkKind(Enum):
    """How a directory is found."""

    FIXED = 0x1E
    """By the BLAKE3 of its bytes: it never changes."""
    MUTABLE = 0xED
    """By the ed25519 key whose newest registry entry points at its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirRef:
    """A directory in a directory.

    Attributes:
        link: 32 bytes, a hash or an ed25519 key as `kind` says. None at all where S5.js lost the
            key on sharding: whoever has the parent's write key can derive it.
        encryption_key: 32 bytes that open it (and its HAMT's nodes); None: it is in clear.
        timestamp, timestamp_nanos: as of a file.
        extra: as of a file.
    """

    kind: LinkKind
    link: bytes
    encryption_key: bytes | None = field(default=None, repr=False)
    timestamp: int | None = None
    timestamp_nanos: int | None = None
    extra: Mapping[Cbor, Cbor] = field(default_factory=_nothing)


DirectoryEntry = FileRef | DirRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """A directory whose entries are in a HAMT. Its own maps are then empty, or have newer entries
    than the HAMT: S5.js puts there what comes after the thousandth.

    Attributes:
        max_leaf_entries: entries above which a leaf is split; a reader follows the writer's.
        hash_function: 0: xxHash64 of the key; 1: the first 8 bytes, big-endian, of its BLAKE3.
        root: BLAKE3 of the root node's blob (of its ciphertext, where the directory is encrypted).
        num_entries: files and directories together.
        depth: levels below the root node.
    """

    bits_per_level: int
    max_leaf_entries: int
    hash_function: int
    root: bytes
    num_entries: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """One directory's own bytes.

    Attributes:
        header: what else the header holds; kept as it was read.
        num_nameless: entries whose name is no text. They were left out: nothing could name them.
    """

    files: Mapping[str, FileRef]
    dirs: Mapping[str, DirRef]
    sharding: Sharding | None = None
    header: Mapping[Cbor, Cbor] = field(default_factory=_nothing)
    num_nameless: int = 0
