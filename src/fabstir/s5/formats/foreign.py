"""Two dialects of directories that are only read: that of s5-rs and the documents' (msgpack).

Both come from public sources and were never run against their writers. s5-rs (2026) has the frame
of S5.js and other keys: 0 type, 1 hash, 2 size, 3 seconds, 4 nanoseconds, 5 locations, 6 media
type, 22 extra, 23 previous; of a directory also 12 keys and 14 encryption. In the documents a file
is {1: version, 3: created, 14: more}, a version {1: size, 3: created, 30: BLAKE3}, and a directory
{1: link, 3: created, 14: more}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import msgpack

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.directory import (
    Cbor,
    Directory,
    DirRef,
    FileEncryption,
    FileRef,
    LinkKind,
)
from fabstir.s5.formats.limits import CHUNK_BYTES, MAX_CBOR_DEPTH
from fabstir.s5.formats.references import (
    DIR_FIELDS,
    FILE_FIELDS,
    CborMap,
    read_bytes,
    read_link_kind,
    read_map,
    read_names,
    read_octets,
    read_optional_text,
    read_optional_uint,
    read_uint,
    split_extra,
)

# -- s5-rs ----------------------------------------------------------------------------------------

_RUST_BLAKE3, _RUST_REGISTRY_KEY, _RUST_TOMBSTONE = 0x03, 0x11, 0x20
_RUST_ENCRYPTED, _RUST_MULTIHASH_BLAKE3 = 0xE2, 0x1E
_RUST_DIRECTORY_KEY = 0x0E
_RUST_SHARDS = 5
_RUST_FILE_FIELDS: Final = FILE_FIELDS | frozenset(range(7))
_RUST_DIR_FIELDS: Final = DIR_FIELDS | frozenset({0, 1, 3, 4, 12})
"""With those of S5.js, which mean something else there when they are written again."""


def is_rust_reference(fields: CborMap) -> bool:
    """Whether a reference has its hash where s5-rs has it: S5.js knows no field 1."""
    return 1 in fields


def is_rust_tombstone(value: Cbor) -> bool:
    """Whether an entry says that a file was deleted."""
    fields = read_map(value, "a file reference")
    return is_rust_reference(fields) and fields.get(0) == _RUST_TOMBSTONE


def refuse_rust_sharding(header: CborMap) -> None:
    """Raises RemoteProtocolError: the entries are in shards, and the directory only seems empty."""
    if header.get(_RUST_SHARDS):
        raise RemoteProtocolError(
            "the directory is sharded as s5-rs does it (256 ways by XXH3), which is not read"
        )


def read_rust_file_ref(fields: CborMap) -> FileRef:
    """Raises RemoteProtocolError: not a file reference of s5-rs, or a pointer into the registry."""
    if fields.get(0, _RUST_BLAKE3) not in (_RUST_BLAKE3, _RUST_TOMBSTONE):
        raise RemoteProtocolError("a file of s5-rs is a pointer into the registry")
    content = read_bytes(fields.get(1), "the hash of a file", 32)
    blob, encryption, locations = _rust_locations(fields.get(5), content)
    prev = fields.get(23)
    return FileRef(
        hash=blob,
        size=read_uint(fields.get(2), "the size of a file"),
        media_type=read_optional_text(fields.get(6), "the media type of a file"),
        timestamp=read_optional_uint(fields.get(3), "the time of a file"),
        timestamp_nanos=read_optional_uint(fields.get(4), "the nanoseconds of a file"),
        locations=locations,
        encryption=encryption,
        extra=split_extra(fields, _RUST_FILE_FIELDS)[1],
        prev=None if prev is None else read_rust_file_ref(read_map(prev, "a file reference")),
    )


def _rust_locations(
    value: Cbor, content: bytes
) -> tuple[bytes, FileEncryption | None, tuple[tuple[int, bytes | str], ...]]:
    """The stored blob's hash, how it is sealed, and the plain locations.

    s5-rs names a file by the hash of its content, and an encrypted blob in a location
    [e2, [[1e, hash of the blob], key, bytes of a chunk]]. Other wrapped ones are left out.
    """
    if value is None:
        return content, None, ()
    blob, encryption = content, None
    plain: list[tuple[int, bytes | str]] = []
    for location in _sequence(value, "the locations of a file"):
        tag, *rest = _sequence(location, "a location of a file") or (None,)
        if tag == _RUST_ENCRYPTED and len(rest) == 1:
            blob, key = _rust_encrypted(rest[0])
            encryption = FileEncryption(key=key, plaintext_hash=content)
        elif isinstance(tag, int) and len(rest) == 1 and isinstance(rest[0], (bytes, str)):
            plain.append((tag, rest[0]))
    return blob, encryption, tuple(plain)


def _rust_encrypted(value: Cbor) -> tuple[bytes, bytes]:
    parts = _sequence(value, "an encrypted location")
    inner = _sequence(parts[0], "an encrypted location") if len(parts) == 3 else ()
    if len(inner) != 2 or inner[0] != _RUST_MULTIHASH_BLAKE3 or parts[2] != CHUNK_BYTES:
        raise RemoteProtocolError("a file of s5-rs is encrypted in a way that is not read")
    return read_bytes(inner[1], "the hash of a file", 32), read_octets(parts[1], "the key")


def read_rust_dir_ref(fields: CborMap) -> DirRef:
    """Raises RemoteProtocolError: not a directory reference of s5-rs."""
    kind = fields.get(0, _RUST_BLAKE3)
    if kind not in (_RUST_BLAKE3, _RUST_REGISTRY_KEY):
        raise RemoteProtocolError("a directory of s5-rs has a link of unknown type")
    keys = fields.get(12)
    key = None if keys is None else read_map(keys, "the keys of a directory").get(14)
    return DirRef(
        kind=LinkKind.FIXED if kind == _RUST_BLAKE3 else LinkKind.MUTABLE,
        link=read_bytes(fields.get(1), "the link of a directory", 32),
        encryption_key=None if key is None else read_octets(key, "the key of a directory"),
        timestamp=read_optional_uint(fields.get(3), "the time of a directory"),
        timestamp_nanos=read_optional_uint(fields.get(4), "the nanoseconds of a directory"),
        extra=split_extra(fields, _RUST_DIR_FIELDS)[1],
    )


def _sequence(value: Cbor, what: str) -> Sequence[Cbor]:
    if not isinstance(value, (list, tuple)):
        raise RemoteProtocolError(f"{what} is not a list")
    return value


# -- the documents --------------------------------------------------------------------------------

_DOCS_SIGNATURE: Final = "FS5.io"
_DOCS_PREFIX: Final = b"\x94\xa6" + _DOCS_SIGNATURE.encode()
"""A msgpack list of four that begins with this text."""

_FIRST_MILLISECONDS: Final = 10**11
"""A time from here on is in milliseconds, as lib5 writes it: in seconds it is the year 5138."""

_DOCS_EXTRA, _DOCS_HASH = 14, 0x1E


def is_docs_directory(body: bytes) -> bool:
    """Whether bytes are of the documents' dialect; CBOR begins otherwise."""
    return body.startswith(_DOCS_PREFIX)


def read_docs_directory(body: bytes) -> Directory:
    """Raises RemoteProtocolError: not what the documents describe. Never another error."""
    _, header, dirs, files = _sequence(_unpack(body), "a directory")
    dir_map, file_map = read_map(dirs, "directories"), read_map(files, "files")
    # Under a name of its own: its numbers mean something else in the header of another dialect.
    fields = read_map(header, "the header of a directory")
    return Directory(
        files={name: _docs_file(file_map[name]) for name in read_names(file_map)},
        dirs={name: _docs_dir(dir_map[name]) for name in read_names(dir_map)},
        header={_DOCS_SIGNATURE: fields} if fields else {},
    )


def _unpack(body: bytes) -> Cbor:
    budget = 64 + len(body) // 8

    def count(value: list[Cbor]) -> list[Cbor]:
        nonlocal budget
        budget -= 1
        if budget < 0:
            raise RemoteProtocolError("msgpack with more lists and maps than any directory has")
        return value

    def pairs(value: list[tuple[Cbor, Cbor]]) -> dict[Cbor, Cbor]:
        count([])
        if any(type(key) not in (int, str, bytes) for key, _ in value):
            raise RemoteProtocolError("msgpack keys are integers, text or bytes in S5")
        fields = dict(value)
        if len(fields) != len(value):
            raise RemoteProtocolError("msgpack map with a key that is there twice")
        return fields

    try:
        value = cast(
            "Cbor",
            msgpack.unpackb(  # pyright: ignore[reportUnknownMemberType] - not typed
                body,
                strict_map_key=False,
                list_hook=count,
                object_pairs_hook=pairs,
                max_ext_len=0,
            ),
        )
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise RemoteProtocolError("not msgpack") from exc
    _check_depth(value, 0)
    return value


def _check_depth(value: Cbor, depth: int) -> None:
    if depth > MAX_CBOR_DEPTH:
        raise RemoteProtocolError(f"msgpack is nested more than {MAX_CBOR_DEPTH} levels deep")
    items = list(value.values()) if isinstance(value, dict) else value
    if isinstance(items, list):
        for item in items:
            _check_depth(item, depth + 1)


def _docs_file(value: Cbor) -> FileRef:
    fields = read_map(value, "a file reference")
    version = read_map(fields.get(1), "the version of a file")
    seconds, nanos = _docs_time(version.get(3))
    return FileRef(
        hash=read_bytes(version.get(_DOCS_HASH), "the hash of a file", 32),
        size=read_uint(version.get(1), "the size of a file"),
        timestamp=seconds,
        timestamp_nanos=nanos,
        extra=_docs_extra(fields),
    )


def _docs_dir(value: Cbor) -> DirRef:
    fields = read_map(value, "a directory reference")
    link = read_bytes(fields.get(1), "the link of a directory", 32, 33)
    seconds, nanos = _docs_time(fields.get(3))
    return DirRef(
        # Of 32 bytes the documents do not say which; their directories are registry keys.
        kind=LinkKind.MUTABLE if len(link) == 32 else read_link_kind(link[0]),
        link=link[-32:],
        timestamp=seconds,
        timestamp_nanos=nanos,
        extra=_docs_extra(fields),
    )


def _docs_time(value: Cbor) -> tuple[int | None, int | None]:
    if value is None:
        return None, None
    time = read_uint(value, "the time of an entry")
    if time < _FIRST_MILLISECONDS:
        return time, None
    return time // 1000, time % 1000 * 1_000_000


def _docs_extra(fields: CborMap) -> CborMap:
    more = fields.get(_DOCS_EXTRA)
    kept = read_map({} if more is None else more, "the extra fields of an entry")
    return {key: item for key, item in kept.items() if isinstance(key, str)}
