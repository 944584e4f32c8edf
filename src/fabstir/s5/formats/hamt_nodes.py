"""One node of a directory's HAMT and its bytes, as S5.js lays them out.

A node is {bitmap, children, count, depth}. A child is {type: "leaf", entries: [[key, value]]} or
{type: "node", cid}; the bitmap, a signed 32-bit number, says which of the 32 slots they have. The
root's blob is {version: 1, config, root}. Keys are "f:NAME" and "d:NAME". S5.js keeps of a file
only hash and size (and reads the media type). The rest stands in fields that it ignores: the
integers of `references`, and "enc", of a file [key, plaintext hash or null, padding], of a
directory its key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fabstir.primitives.errors import LocalProtocolError, RemoteProtocolError
from fabstir.s5.formats.cbor import (
    decode_cbor,
    encode_canonical,
    encode_s5js,
    encode_text,
    head_bytes,
)
from fabstir.s5.formats.directory import (
    Cbor,
    DirectoryDialect,
    DirectoryEntry,
    DirRef,
    FileEncryption,
    FileRef,
    LinkKind,
)
from fabstir.s5.formats.limits import (
    HAMT_BITS_PER_LEVEL,
    HAMT_LEAF_ENTRIES,
    MAX_HAMT_DEPTH,
    MAX_HAMT_LEAF_ENTRIES,
    MAX_HAMT_NODE_BYTES,
)
from fabstir.s5.formats.references import (
    EXTRA,
    LOCATIONS,
    NANOS,
    PREV,
    TIMESTAMP,
    CborMap,
    put_extra,
    put_optional,
    read_bytes,
    read_file_ref,
    read_locations,
    read_map,
    read_octets,
    read_optional_text,
    read_optional_uint,
    read_uint,
    split_extra,
    write_file_ref,
    write_size,
)

NUM_SLOTS: Final = 1 << HAMT_BITS_PER_LEVEL

_KNOWN: Final = frozenset({TIMESTAMP, NANOS, LOCATIONS, EXTRA, PREV})
_LINK_KINDS: Final = {
    "fixed_hash_blake3": LinkKind.FIXED,
    "mutable_registry_ed25519": LinkKind.MUTABLE,
    "resolver_registry": LinkKind.MUTABLE,
}

RawLeaf = Sequence[tuple[str, Cbor]]
"""Keys with values that nobody has looked into yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HamtConfig:
    """How a tree is built; it stands in its root, and every writer follows it.

    Attributes:
        max_leaf_entries: entries above which a leaf is split.
        hash_function: 0: xxHash64 of the key; 1: the first 8 bytes, big-endian, of its BLAKE3.
    """

    max_leaf_entries: int = HAMT_LEAF_ENTRIES
    hash_function: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it was read.

    Attributes:
        depth: which five bits of a hash choose the slot; the root has 0.
        count: entries in it and below, as its writer says.
        children: by slot: the entries of a leaf, or the 32-byte hash of a node one level down.
    """

    depth: int
    count: int
    children: Mapping[int, RawLeaf | bytes]

    @property
    def unsplit(self) -> RawLeaf | None:
        """The entries of a node that is one leaf, which are there whatever their hash says.

        S5.js marks it with a single leaf in slot 0, so a node with nothing else is taken for one.
        """
        only = self.children.get(0)
        return None if len(self.children) != 1 or isinstance(only, bytes) else only


# -- reading --------------------------------------------------------------------------------------

_ROOT_FIELDS: Final = frozenset({"version", "config", "root"})
_CONFIG_FIELDS: Final = frozenset({"bitsPerLevel", "hashFunction", "maxInlineEntries"})
_NODE_FIELDS: Final = frozenset({"bitmap", "children", "count", "depth"})
_CHILD_FIELDS: Final = frozenset({"type", "cid", "entries"})


@dataclass(frozen=True, slots=True)
class DecodedNode:
    """A node, or a root, whose CBOR somebody has read already: seconds for the longest one, which
    no event loop should wait for."""

    value: Cbor


def decode_node(data: bytes) -> DecodedNode:
    """Read the CBOR of a node or root, and refuse what is not made of their fields alone.

    Raises:
        RemoteProtocolError: it is no CBOR, too long, or has fields that no node has.
    """
    value = decode_cbor(data, max_bytes=MAX_HAMT_NODE_BYTES)
    fields = read_map(value, "a HAMT node")
    if "version" in fields:
        _refuse_others(fields, _ROOT_FIELDS)
        _refuse_others(read_map(fields.get("config"), "the config of a HAMT"), _CONFIG_FIELDS)
        fields = read_map(fields.get("root"), "a HAMT node")
    _refuse_others(fields, _NODE_FIELDS)
    children = fields.get("children")
    for child in children if isinstance(children, list) else ():
        _refuse_others(read_map(child, "a child of a HAMT node"), _CHILD_FIELDS)
    return DecodedNode(value)


def _refuse_others(fields: CborMap, known: frozenset[str]) -> None:
    if not fields.keys() <= known:
        raise RemoteProtocolError("a HAMT node with fields that no writer of S5 knows")


def read_root(data: bytes | DecodedNode) -> tuple[HamtConfig, Node]:
    """Raises RemoteProtocolError: not the root of a HAMT, or one with other than 5 bits a level."""
    decoded = data if isinstance(data, DecodedNode) else decode_node(data)
    fields = read_map(decoded.value, "the root of a HAMT")
    if fields.get("version") != 1:
        raise RemoteProtocolError("a HAMT of an unknown version")
    config = read_map(fields.get("config"), "the config of a HAMT")
    if config.get("bitsPerLevel") != HAMT_BITS_PER_LEVEL:
        raise RemoteProtocolError(f"a HAMT with other than {HAMT_BITS_PER_LEVEL} bits a level")
    limit = MAX_HAMT_LEAF_ENTRIES + 1
    leaf_entries = read_uint(config.get("maxInlineEntries"), "maxInlineEntries", limit=limit)
    if not leaf_entries:
        raise RemoteProtocolError("a HAMT whose leaves hold nothing")
    root = _node(fields.get("root"), 0)
    hash_function = read_uint(config.get("hashFunction"), "hashFunction", limit=2)
    return HamtConfig(max_leaf_entries=leaf_entries, hash_function=hash_function), root


def read_node(data: bytes | DecodedNode, *, depth: int, max_count: int) -> Node:
    """A node below the root.

    Args:
        depth: which one its parent must lead to: it grows on every path, so no path is a circle.
        max_count: how many entries its parent has room for.

    Raises:
        RemoteProtocolError: not a node, of another depth, or of more entries.
    """
    decoded = data if isinstance(data, DecodedNode) else decode_node(data)
    node = _node(decoded.value, depth)
    if not 0 < node.count <= max_count:
        raise RemoteProtocolError(
            f"a HAMT node claims {node.count} entries where its parent has {max_count}"
        )
    return node


def _node(value: Cbor, depth: int) -> Node:
    fields = read_map(value, "a HAMT node")
    if depth > MAX_HAMT_DEPTH:
        raise RemoteProtocolError(f"a HAMT with more than {MAX_HAMT_DEPTH} levels below its root")
    if fields.get("depth") != depth:
        raise RemoteProtocolError(f"a HAMT node at depth {depth} says {fields.get('depth')!r}")
    children = fields.get("children")
    bitmap = fields.get("bitmap")
    if not isinstance(bitmap, int) or not -(1 << 31) <= bitmap < 1 << 32:
        raise RemoteProtocolError("the bitmap of a HAMT node does not have 32 bits")
    slots = [slot for slot in range(NUM_SLOTS) if bitmap >> slot & 1]
    if not isinstance(children, list) or len(children) != len(slots):
        raise RemoteProtocolError("a HAMT node has other children than its bitmap says")
    node = Node(
        depth=depth,
        count=read_uint(fields.get("count"), "the count of a HAMT node"),
        children={s: _child(c, depth) for s, c in zip(slots, children, strict=True)},
    )
    _check_count(node)
    return node


def _check_count(node: Node) -> None:
    leaves = [child for child in node.children.values() if not isinstance(child, bytes)]
    num_nodes = len(node.children) - len(leaves)
    num_entries = sum(map(len, leaves))
    if node.count < num_entries + num_nodes or (not num_nodes and node.count != num_entries):
        raise RemoteProtocolError(f"a HAMT node counts {node.count} entries and has others")


def _child(value: Cbor, depth: int) -> RawLeaf | bytes:
    """A child of a node at `depth`."""
    fields = read_map(value, "a child of a HAMT node")
    kind = fields.get("type")
    if kind == "node":
        return read_bytes(fields.get("cid"), "the link of a HAMT node", 32, 33)[-32:]
    entries = fields.get("entries")
    if kind != "leaf" or not isinstance(entries, list) or not entries:
        raise RemoteProtocolError("a child of a HAMT node is neither a node nor a leaf")
    if len(entries) > MAX_HAMT_LEAF_ENTRIES and depth < MAX_HAMT_DEPTH:
        raise RemoteProtocolError(f"a HAMT leaf with more than {MAX_HAMT_LEAF_ENTRIES} entries")
    leaf = [_pair(pair) for pair in entries]
    if len({key for key, _ in leaf}) != len(leaf):
        raise RemoteProtocolError("a HAMT leaf with a key that is there twice")
    return leaf


def _pair(pair: Cbor) -> tuple[str, Cbor]:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise RemoteProtocolError("an entry of a HAMT leaf is not a key and a value")
    return pair[0], pair[1]


def key_problem(key: str) -> str | None:
    """What is wrong with the key of an entry; None: nothing."""
    if key[:2] not in {"f:", "d:"}:
        return "a key of a HAMT begins with f: or d:"
    return None


def read_entry(key: str, value: Cbor) -> DirectoryEntry:
    """Raises RemoteProtocolError: a key or value that S5 does not write."""
    problem = key_problem(key)
    if problem:
        raise RemoteProtocolError(problem)
    fields = read_map(value, "an entry of a HAMT leaf")
    return _read_file(fields) if key[0] == "f" else _read_dir(fields)


def _read_file(fields: CborMap) -> FileRef:
    prev = fields.get(PREV)
    return FileRef(
        hash=read_bytes(fields.get("hash"), "the hash of a file", 32),
        size=read_uint(fields.get("size"), "the size of a file"),
        media_type=read_optional_text(fields.get("media_type"), "the media type of a file"),
        timestamp=read_optional_uint(fields.get(TIMESTAMP), "the time of a file"),
        timestamp_nanos=read_optional_uint(fields.get(NANOS), "the nanoseconds of a file"),
        locations=read_locations(fields.get(LOCATIONS)),
        encryption=_read_encryption(fields.get("enc")),
        extra=split_extra(fields, _KNOWN)[1],
        prev=None if prev is None else read_file_ref(prev),
    )


def _read_encryption(value: Cbor) -> FileEncryption | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise RemoteProtocolError("the encryption of a file is not key, hash and padding")
    key, plaintext_hash, padding = value
    return FileEncryption(
        key=read_octets(key, "the key of a file"),
        plaintext_hash=None
        if plaintext_hash is None
        else read_octets(plaintext_hash, "the plaintext hash of a file"),
        padding=read_uint(padding, "the padding of a file"),
    )


def _read_dir(fields: CborMap) -> DirRef:
    link = read_map(fields.get("link"), "the link of a directory")
    kind = link.get("type")
    if not isinstance(kind, str) or kind not in _LINK_KINDS:
        raise RemoteProtocolError("a directory has a link of unknown type")
    place = link.get("hash") or link.get("publicKey")
    key = fields.get("enc")
    return DirRef(
        kind=_LINK_KINDS[kind],
        link=b"" if place is None else read_bytes(place, "the link of a directory", 32),
        encryption_key=None if key is None else read_bytes(key, "the key of a directory", 32),
        timestamp=read_optional_uint(fields.get(TIMESTAMP), "the time of a directory"),
        timestamp_nanos=read_optional_uint(fields.get(NANOS), "the nanoseconds of a directory"),
        extra=split_extra(fields, _KNOWN)[1],
    )


# -- writing --------------------------------------------------------------------------------------

Leaf = Sequence[tuple[str, DirectoryEntry]]

_LEAF: Final = b"\xa2" + encode_text("type") + encode_text("leaf") + encode_text("entries")
_NODE: Final = {
    DirectoryDialect.S5JS: (
        b"\xa2" + encode_text("type") + encode_text("node") + encode_text("cid") + b"\x58\x21\x1e",
        b"",
    ),
    DirectoryDialect.CANONICAL: (
        b"\xa2" + encode_text("cid") + b"\x58\x21\x1e",
        encode_text("type") + encode_text("node"),
    ),
}
"""What stands before and after the hash of a child."""

_HASH: Final = encode_text("hash") + b"\x58\x20"
_SIZE: Final = encode_text("size")
_MEDIA_TYPE: Final = encode_text("media_type")
_ENC: Final = encode_text("enc")


def write_root(
    config: HamtConfig, children: Mapping[int, Leaf | bytes], count: int, dialect: DirectoryDialect
) -> bytes:
    """The root's blob. Raises LocalProtocolError: a key that no reader would take."""
    fields = {
        "bitsPerLevel": HAMT_BITS_PER_LEVEL,
        "hashFunction": config.hash_function,
        "maxInlineEntries": config.max_leaf_entries,
    }
    return _fields(
        dialect,
        version=b"\x01",
        config=_fields(dialect, **{name: head_bytes(0, n) for name, n in fields.items()}),
        root=write_node(children, count, 0, dialect),
    )


def write_node(
    children: Mapping[int, Leaf | bytes], count: int, depth: int, dialect: DirectoryDialect
) -> bytes:
    """A node's blob. Raises LocalProtocolError: a key that no reader would take."""
    bitmap = sum(1 << slot for slot in children)
    signed = bitmap - (1 << 32) if bitmap >> 31 else bitmap
    before, after = _NODE[dialect]
    out = [head_bytes(4, len(children))]
    for slot in sorted(children):
        child = children[slot]
        if isinstance(child, bytes):
            out += (before, child, after)
        else:
            out += (_LEAF, head_bytes(4, len(child)))
            out += [_entry_bytes(key, entry, dialect) for key, entry in child]
    return _fields(
        dialect,
        bitmap=encode_canonical(signed),
        children=b"".join(out),
        count=head_bytes(0, count),
        depth=head_bytes(0, depth),
    )


def _fields(dialect: DirectoryDialect, **fields: bytes) -> bytes:
    keyed = [(encode_text(name), value) for name, value in fields.items()]
    if dialect is DirectoryDialect.CANONICAL:
        keyed.sort()
    return head_bytes(5, len(keyed)) + b"".join(key + value for key, value in keyed)


def _entry_bytes(key: str, entry: DirectoryEntry, dialect: DirectoryDialect) -> bytes:
    problem = key_problem(key)
    if problem:
        raise LocalProtocolError(problem)
    if isinstance(entry, DirRef):
        if key[0] != "d":
            raise LocalProtocolError(f"{key!r} is the key of a file, not of a directory")
        value = _write_dir(entry)
    else:
        if key[0] != "f":
            raise LocalProtocolError(f"{key!r} is the key of a directory, not of a file")
        if dialect is DirectoryDialect.CANONICAL and not (
            entry.extra or entry.locations or entry.prev
        ):
            return b"\x82" + encode_text(key) + _plain_file(entry)
        value = _write_file(entry, dialect)
    write = encode_s5js if dialect is DirectoryDialect.S5JS else encode_canonical
    return b"\x82" + encode_text(key) + write(value)


def _plain_file(file: FileRef) -> bytes:
    """The canonical bytes of most files, made at once: a million of them take seconds."""
    out = b""
    num_fields = 2
    if file.timestamp is not None:
        out += b"\x07" + head_bytes(0, file.timestamp)
        num_fields += 1
    if file.timestamp_nanos is not None:
        out += b"\x08" + head_bytes(0, file.timestamp_nanos)
        num_fields += 1
    if file.encryption is not None:
        out += _ENC + encode_canonical(_write_encryption(file.encryption))
        num_fields += 1
    out += _HASH + file.hash + _SIZE + head_bytes(0, file.size)
    if file.media_type is not None:
        out += _MEDIA_TYPE + encode_text(file.media_type)
        num_fields += 1
    return bytes((0xA0 | num_fields,)) + out


def _write_file(file: FileRef, dialect: DirectoryDialect) -> CborMap:
    fields: dict[Cbor, Cbor] = {"hash": file.hash, "size": write_size(file.size)}
    put_optional(fields, "media_type", file.media_type)
    put_optional(fields, TIMESTAMP, file.timestamp)
    put_optional(fields, NANOS, file.timestamp_nanos)
    if file.locations:
        fields[LOCATIONS] = file.locations
    put_extra(fields, file.extra, None)
    if file.prev is not None:
        fields[PREV] = write_file_ref(file.prev, dialect)
    if file.encryption is not None:
        fields["enc"] = _write_encryption(file.encryption)
    return fields


def _write_encryption(encryption: FileEncryption) -> Cbor:
    return [encryption.key, encryption.plaintext_hash, encryption.padding]


def _write_dir(directory: DirRef) -> CborMap:
    fixed = directory.kind is LinkKind.FIXED
    link: dict[Cbor, Cbor] = {"type": "fixed_hash_blake3" if fixed else "mutable_registry_ed25519"}
    if fixed or not directory.link:
        # S5.js asks for the hash of either kind, and finds none of a registry key.
        link["hash"] = directory.link or None
    else:
        link["publicKey"] = directory.link
    fields: dict[Cbor, Cbor] = {"link": link}
    put_optional(fields, TIMESTAMP, directory.timestamp)
    put_optional(fields, NANOS, directory.timestamp_nanos)
    put_extra(fields, directory.extra, None)
    put_optional(fields, "enc", directory.encryption_key)
    return fields
