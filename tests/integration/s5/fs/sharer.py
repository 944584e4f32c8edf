"""Somebody who was let into one directory, and writes into it whatever bytes he likes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.s5.formats.derivation import child_directory
from fabstir.s5.formats.dialects import decode_directory, encode_directory
from fabstir.s5.formats.directory import Directory, DirectoryDialect, DirRef, FileRef, LinkKind
from fabstir.s5.formats.directory_cid import Capability, DirectoryCid
from fabstir.s5.formats.encryption import NONCE_BYTES, open_mutable, seal_mutable
from fabstir.s5.formats.registry import blob_pointer, read_blob_pointer, sign_entry
from fabstir.s5.store import LocalBlobs, LocalRegistry

MAX_BYTES = 2 << 20


class Sharer:
    """Holds a capability, and none of our code between it and the registry."""

    def __init__(self, blobs: LocalBlobs, registry: LocalRegistry, capability: Capability) -> None:
        assert capability.write_key is not None
        self.blobs = blobs
        self.registry = registry
        self.capability = capability
        self.seed = capability.write_key

    @property
    def link(self) -> bytes:
        return self.capability.cid.link

    def child(self, name: str) -> Sharer:
        """The directory that this name has keys for."""
        keys = child_directory(self.seed, name, NATIVE)
        return Sharer(self.blobs, self.registry, Capability.of_keys(keys, writable=True))

    def reference(self, key: bytes | None = None) -> DirRef:
        """What names this directory in another one, with its key or another."""
        chosen = self.capability.cid.encryption_key if key is None else key
        return DirRef(kind=LinkKind.MUTABLE, link=self.link, encryption_key=chosen)

    async def revision(self) -> int:
        entry = await self.registry.get(self.link)
        return 0 if entry is None else entry.revision

    async def read(self) -> Directory:
        entry = await self.registry.get(self.link)
        if entry is None or not entry.data:
            return Directory(files={}, dirs={})
        data = await self.blobs.get(read_blob_pointer(entry.data), max_bytes=MAX_BYTES)
        key = self.capability.cid.encryption_key
        assert key is not None
        return decode_directory(open_mutable(data, key, NATIVE, max_bytes=MAX_BYTES))

    async def add(
        self,
        files: Mapping[str, FileRef] | None = None,
        dirs: Mapping[str, DirRef] | None = None,
    ) -> None:
        """Name something more."""
        now = await self.read()
        await self.publish(
            Directory(
                files={**now.files, **(files or {})},
                dirs={**now.dirs, **(dirs or {})},
                sharding=now.sharding,
                header=now.header,
            )
        )

    async def publish(self, directory: Directory) -> None:
        await self.publish_bytes(encode_directory(directory, DirectoryDialect.CANONICAL))

    async def publish_bytes(self, data: bytes) -> None:
        key = self.capability.cid.encryption_key
        assert key is not None
        sealed = seal_mutable(data, key, secrets.token_bytes(NONCE_BYTES), NATIVE)
        blob = await self.blobs.put(sealed, reason="test")
        await self.point(blob.multihash)

    async def point(self, blob: Multihash, *, revision: int | None = None) -> None:
        """Let the directory's link lead to any blob at all."""
        chosen = await self.revision() + 1 if revision is None else revision
        await self.registry.set(sign_entry(self.seed, chosen, blob_pointer(blob), NATIVE))


def read_key(capability: str) -> bytes:
    """What opens a directory that was shared for reading."""
    key = DirectoryCid.decode(capability).encryption_key
    assert key is not None
    return key
