"""The bytes of a directory: two dialects are written, every known one is read.

`5f 5d`, then CBOR: [magic "S5.pro", header, directories, files]. S5.js and our canonical form share
the keys (see `references`); they differ in what CBOR leaves open: map headers, order, big numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.cbor import (
    PlainObject,
    decode_cbor,
    encode_canonical,
    encode_s5js,
    encode_text,
    head_bytes,
)
from fabstir.s5.formats.collation import locale_key
from fabstir.s5.formats.directory import (
    Cbor,
    Directory,
    DirectoryDialect,
    DirectoryEntry,
    DirRef,
    FileRef,
    Sharding,
)
from fabstir.s5.formats.foreign import (
    is_docs_directory,
    is_rust_reference,
    is_rust_tombstone,
    read_docs_directory,
    read_rust_dir_ref,
    read_rust_file_ref,
    refuse_rust_sharding,
)
from fabstir.s5.formats.limits import MAX_MUTABLE_BYTES
from fabstir.s5.formats.references import (
    CborMap,
    read_bytes,
    read_dir_ref,
    read_file_ref,
    read_map,
    read_names,
    read_uint,
    write_dir_ref,
    write_file_ref,
)

MAGIC: Final = b"\x5f\x5d"
"""The first bytes of a directory; readers do without them as well."""

_SIGNATURE: Final = "S5.pro"
_SIGNATURES: Final = (_SIGNATURE, "S5.pro/web")
"""The second is a web application of s5-rs: a directory with more header fields."""

_NEWER_RUST: Final = "s5_fs_v2"
"""What the first of three values says in directories of s5-rs since 2026."""

_SHARDING: Final = "sharding"

T = TypeVar("T")
E = TypeVar("E", FileRef, DirRef)


def encode_directory(directory: Directory, dialect: DirectoryDialect) -> bytes:
    """The bytes of a directory, in clear.

    Names are written as they are: those of others are kept until somebody deletes them.

    Raises:
        ValueError: extra fields that CBOR cannot write.
    """
    write = encode_s5js if dialect is DirectoryDialect.S5JS else encode_canonical
    dirs = _entries(directory.dirs, write_dir_ref, dialect)
    files = _entries(directory.files, lambda value: write_file_ref(value, dialect), dialect)
    return MAGIC + write([_SIGNATURE, _header(directory), dirs, files])


Pieces = Mapping[str, tuple[DirectoryEntry, bytes]]
"""Entries by name, each with the canonical bytes of its name and itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A directory's canonical bytes, and what they are made of."""

    data: bytes
    dirs: Pieces
    files: Pieces


def encode_canonical_directory(directory: Directory, before: Encoded | None = None) -> Encoded:
    """The canonical bytes of a directory, of which only what is new is encoded.

    Measured with 1,000 encrypted files: 22 ms for all of them, 0.6 ms after one more.

    Args:
        before: an earlier version: entries that are the very same objects are taken from it.

    Raises:
        ValueError: as `encode_directory`.
    """
    dirs_body, dirs = _pieces(directory.dirs, write_dir_ref, before.dirs if before else {})
    files_body, files = _pieces(
        directory.files, _write_canonical_file, before.files if before else {}
    )
    head = head_bytes(4, 4) + encode_text(_SIGNATURE) + encode_canonical(_header(directory))
    return Encoded(data=MAGIC + head + dirs_body + files_body, dirs=dirs, files=files)


def _write_canonical_file(file: FileRef) -> CborMap:
    return write_file_ref(file, DirectoryDialect.CANONICAL)


def _pieces(
    values: Mapping[str, E], write: Callable[[E], CborMap], before: Pieces
) -> tuple[bytes, Pieces]:
    pieces: dict[str, tuple[DirectoryEntry, bytes]] = {}
    for name, entry in values.items():
        known = before.get(name)
        if known is not None and known[0] is entry:
            pieces[name] = known
            continue
        pieces[name] = entry, encode_text(name) + encode_canonical(write(entry))
    # No key is the beginning of another one, so this is the order of the keys.
    body = b"".join(sorted(piece for _, piece in pieces.values()))
    return head_bytes(5, len(pieces)) + body, pieces


def _entries(
    values: Mapping[str, T], write: Callable[[T], CborMap], dialect: DirectoryDialect
) -> CborMap:
    names: Iterable[str] = values
    if dialect is DirectoryDialect.S5JS:
        names = sorted(values, key=locale_key)
    return {name: write(values[name]) for name in names}


def _header(directory: Directory) -> CborMap:
    header = dict(directory.header)
    if directory.sharding is not None:
        # S5.js appends it last.
        header.pop(_SHARDING, None)
        header[_SHARDING] = _write_sharding(directory.sharding)
    return header


def _write_sharding(sharding: Sharding) -> Cbor:
    return PlainObject(
        {
            "type": "hamt",
            "config": PlainObject(
                {
                    "bitsPerLevel": sharding.bits_per_level,
                    "maxInlineEntries": sharding.max_leaf_entries,
                    "hashFunction": sharding.hash_function,
                }
            ),
            "root": PlainObject(
                {
                    "cid": b"\x1e" + sharding.root,
                    "totalEntries": sharding.num_entries,
                    "depth": sharding.depth,
                }
            ),
        }
    )


def decode_directory(data: bytes) -> Directory:
    """Read a directory of any dialect.

    Raises:
        RemoteProtocolError: not a directory, longer than MAX_MUTABLE_BYTES, or an entry that says
            something we do not know. Never another error.
    """
    if len(data) > MAX_MUTABLE_BYTES:
        raise RemoteProtocolError(f"a directory of {len(data)} bytes; {MAX_MUTABLE_BYTES} are read")
    body = data[2:] if data[:2] == MAGIC else data
    if is_docs_directory(body):
        return read_docs_directory(body)
    value = decode_cbor(body, max_bytes=MAX_MUTABLE_BYTES)
    if isinstance(value, list) and value[:1] == [_NEWER_RUST]:
        raise RemoteProtocolError(
            f"a directory of a newer s5-rs ({_NEWER_RUST}), which is not read here: have its node "
            "export it, or share it from a node that writes S5.pro"
        )
    if not isinstance(value, list) or len(value) != 4 or value[0] not in _SIGNATURES:
        raise RemoteProtocolError("not a directory of S5")
    header = read_map(value[1], "the header of a directory")
    refuse_rust_sharding(header)
    dirs = read_map(value[2], "the list of directories")
    files = read_map(value[3], "the list of files")
    sharding = _read_sharding(header.get(_SHARDING))
    return Directory(
        files={
            name: _rust_or_s5js(files[name], read_rust_file_ref, read_file_ref)
            for name in read_names(files)
            if not is_rust_tombstone(files[name])
        },
        dirs={
            name: _rust_or_s5js(dirs[name], read_rust_dir_ref, read_dir_ref)
            for name in read_names(dirs)
        },
        sharding=sharding,
        header={k: v for k, v in header.items() if sharding is None or k != _SHARDING},
        num_nameless=sum(not isinstance(name, str) for name in (*files, *dirs)),
    )


def _rust_or_s5js(
    value: Cbor, read_rust: Callable[[CborMap], T], read_s5js: Callable[[Cbor], T]
) -> T:
    if isinstance(value, Mapping) and is_rust_reference(value):
        return read_rust(value)
    return read_s5js(value)


def _read_sharding(value: Cbor) -> Sharding | None:
    if value is None:
        return None
    fields = read_map(value, "the sharding of a directory")
    if fields.get("root") is None:
        return None
    if fields.get("type") != "hamt":
        raise RemoteProtocolError("a directory is sharded, and not as a HAMT")
    config = read_map(fields.get("config"), "the sharding's config")
    root = read_map(fields.get("root"), "the sharding's root")
    return Sharding(
        bits_per_level=read_uint(config.get("bitsPerLevel"), "bitsPerLevel", limit=6),
        max_leaf_entries=read_uint(config.get("maxInlineEntries"), "maxInlineEntries"),
        hash_function=read_uint(config.get("hashFunction"), "hashFunction", limit=2),
        root=read_bytes(root.get("cid"), "the root of a HAMT", 32, 33)[-32:],
        num_entries=read_uint(root.get("totalEntries"), "totalEntries"),
        depth=read_uint(root.get("depth"), "depth", limit=64),
    )
