"""The known answers of docs/s5-formats.md, sections 1 to 4, recomputed from their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.s5_trees import Blobs, drive, lookup

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType
from fabstir.s5.formats.dialects import decode_directory, encode_directory
from fabstir.s5.formats.directory import (
    Directory,
    DirectoryDialect,
    DirectoryEntry,
    DirRef,
    FileEncryption,
    FileRef,
    LinkKind,
    Sharding,
)
from fabstir.s5.formats.hamt import build, hash_key
from fabstir.s5.formats.hamt_nodes import HamtConfig

Inputs = Mapping[str, Any]


def _hex(value: str) -> bytes:
    return bytes.fromhex(value)


def _blob(given: Inputs) -> BlobId:
    blob = BlobId(_hex(given["hash"]), given["size"], HashType[given.get("type", "BLAKE3")])
    assert BlobId.from_bytes(blob.to_bytes()) == blob
    return blob


def blob_id(given: Inputs) -> str:
    """Section 3: the bytes of an identifier."""
    return _blob(given).to_bytes().hex()


def blob_id_text(given: Inputs) -> Inputs:
    """Section 3: its four texts, and the bare hash."""
    data = given["text"].encode()
    blob = BlobId(NATIVE.blake3(data), len(data))
    texts = {base: blob.encode(base) for base in "fbzu"}
    assert all(BlobId.decode(text) == blob for text in texts.values())
    return {**texts, "bare": blob.multihash.encode()}


def legacy_blob_id(given: Inputs) -> Inputs:
    """Section 3: an identifier of an earlier release, in today's form."""
    return {"today": BlobId.from_bytes(_hex(given["bytes"])).to_bytes().hex()}


def _file(given: Inputs) -> FileRef:
    key = given.get("key")
    return FileRef(
        hash=_hex(given["hash"]),
        size=given["size"],
        media_type=given.get("mediaType"),
        timestamp=given.get("timestamp"),
        encryption=None if key is None else FileEncryption(key=_hex(key)),
    )


def _dir(given: Inputs) -> DirRef:
    key = given.get("key")
    return DirRef(
        kind=LinkKind[given["kind"]],
        link=_hex(given["link"]),
        encryption_key=None if key is None else _hex(key),
        timestamp=given.get("timestamp"),
    )


def _sharding(given: Inputs) -> Sharding:
    numbers = {name: value for name, value in given.items() if name != "root"}
    return Sharding(root=_hex(given["root"]), **numbers)


def directory(given: Inputs) -> str:
    """Section 4: a directory's bytes."""
    value = Directory(
        files={name: _file(file) for name, file in given.get("files", {}).items()},
        dirs={name: _dir(below) for name, below in given.get("dirs", {}).items()},
        sharding=_sharding(given["sharding"]) if "sharding" in given else None,
    )
    written = encode_directory(value, DirectoryDialect[given["dialect"]])
    assert decode_directory(written) == value
    return written.hex()


def hamt_path(given: Inputs) -> Inputs:
    """Section 4.4: where a key is."""
    path = hash_key(given["key"], given["hashFunction"], NATIVE)
    return {"hash": f"{path:016x}", "slots": [path >> 5 * level & 31 for level in range(13)]}


def hamt_node(given: Inputs) -> str:
    """Section 4.4: the bytes of one node of a tree, in the order in which they are written."""
    entries: dict[str, DirectoryEntry] = {
        f"f:{name}": _file(file) for name, file in given["files"].items()
    }
    entries.update({f"d:{name}": _dir(below) for name, below in given.get("dirs", {}).items()})
    blobs = Blobs()
    config = HamtConfig(max_leaf_entries=given["maxLeafEntries"])
    dialect = DirectoryDialect[given["dialect"]]
    tree = drive(build(entries, blobs.store, NATIVE, config=config, dialect=dialect))
    for key, entry in entries.items():
        assert drive(lookup(tree.root, key, blobs.load, NATIVE)) == entry
    return blobs[tree.new[given["node"]]].hex()


VECTORS: Final[dict[str, Callable[[Inputs], str | Inputs]]] = {
    "blob-id": blob_id,
    "blob-id-text": blob_id_text,
    "legacy-blob-id": legacy_blob_id,
    "directory": directory,
    "hamt-path": hamt_path,
    "hamt-node": hamt_node,
}
