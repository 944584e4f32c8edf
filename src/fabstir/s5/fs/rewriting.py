"""Rewriting a directory with some names changed: flat maps while it is small, then a HAMT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import PathRefused
from fabstir.s5.formats import hamt
from fabstir.s5.formats.dialects import Encoded
from fabstir.s5.formats.directory import Directory, DirectoryDialect, DirectoryEntry, FileRef
from fabstir.s5.formats.hamt_nodes import HamtConfig
from fabstir.s5.formats.limits import HAMT_SWITCH_ENTRIES, MAX_MUTABLE_BYTES
from fabstir.s5.fs.authorship import blank_header
from fabstir.s5.fs.changes import NameSlot
from fabstir.s5.fs.directories import (
    DIRECTORY_KEY,
    FILE_KEY,
    Directories,
    Loaded,
    inline_entries,
)
from fabstir.s5.fs.together import Unstored, put_all

MAX_FLAT_BYTES: Final = MAX_MUTABLE_BYTES // 2
"""A directory whose entries take more is sharded early: 999 files with eight older versions each
have some 1.5 MB, and readers take one."""

_NODES_AT_ONCE: Final = 64
"""Nodes that are stored together: 64 times some 8 KiB, and one wait for the disk or the portal."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A directory's next version.

    Attributes:
        encoded: its bytes.
        stored: blobs of HAMT nodes that were stored for it.
        dropped: blobs of HAMT nodes that it no longer has.
    """

    directory: Directory
    encoded: Encoded
    stored: tuple[Multihash, ...] = ()
    dropped: tuple[Multihash, ...] = ()


class Rewriting:
    """Makes next versions; what they need is stored, and nothing is published.

    Args:
        leaf_entries: most entries of a HAMT's leaf, for HAMTs that are made here.
    """

    def __init__(self, directories: Directories, leaf_entries: int) -> None:
        self._directories = directories
        self._config = HamtConfig(max_leaf_entries=leaf_entries)

    async def rewrite(
        self, loaded: Loaded, before: Mapping[str, NameSlot], after: Mapping[str, NameSlot]
    ) -> Rewritten:
        """The directory with what is under some names replaced, and room for our mark."""
        header = blank_header(loaded.directory.header)
        directory = replace(loaded.directory, header=header)
        if directory.sharding is not None:
            return await self._reshard(loaded, directory, before, after)
        files = _merged(directory.files, {name: slot.file for name, slot in after.items()})
        dirs = _merged(directory.dirs, {name: slot.directory for name, slot in after.items()})
        return await self.arrange(loaded, replace(directory, files=files, dirs=dirs))

    async def arrange(self, loaded: Loaded, directory: Directory) -> Rewritten:
        """A flat directory as it is, or as a HAMT if it is too large."""
        num_entries = len(directory.files) + len(directory.dirs)
        dialect = self._directories.dialect
        if num_entries < HAMT_SWITCH_ENTRIES:
            encoded = self._directories.encode(directory, loaded)
            if len(encoded.data) <= MAX_FLAT_BYTES:
                return Rewritten(directory=directory, encoded=encoded)
        entries = inline_entries(directory)
        self._refuse_ciphertext(loaded, entries)
        nodes = self._nodes(loaded)
        built = await hamt.build(
            entries,
            nodes.store,
            self._directories.crypto,
            config=self._config,
            dialect=dialect,
        )
        await nodes.flush()
        sharded = replace(directory, files={}, dirs={}, sharding=built.sharding())
        return Rewritten(
            directory=sharded,
            encoded=self._directories.encode(sharded, loaded),
            stored=_blobs(built.new),
        )

    async def _reshard(
        self,
        loaded: Loaded,
        directory: Directory,
        before: Mapping[str, NameSlot],
        after: Mapping[str, NameSlot],
    ) -> Rewritten:
        assert directory.sharding is not None, "only sharded directories come here"
        # What S5.js put beside the HAMT goes into it.
        changes: dict[str, DirectoryEntry | None] = {**inline_entries(directory)}
        for name, slot in after.items():
            if slot.file != before[name].file:
                changes[FILE_KEY + name] = slot.file
            if slot.directory != before[name].directory:
                changes[DIRECTORY_KEY + name] = slot.directory
        self._refuse_ciphertext(loaded, changes)
        nodes = self._nodes(loaded)
        updated = await hamt.update(
            directory.sharding.root,
            changes,
            self._directories.node_loader(loaded),
            nodes.store,
            self._directories.crypto,
            dialect=self._directories.dialect,
        )
        await nodes.flush()
        resharded = replace(
            directory, files={}, dirs={}, sharding=updated.sharding(directory.sharding)
        )
        return Rewritten(
            directory=resharded,
            encoded=self._directories.encode(resharded, loaded),
            stored=_blobs(updated.new),
            dropped=_blobs(updated.dropped),
        )

    def _refuse_ciphertext(
        self, loaded: Loaded, entries: Mapping[str, DirectoryEntry | None]
    ) -> None:
        """In a tree that S5.js reads: it keeps hash and size of a HAMT's files, not their keys."""
        if self._directories.dialect is not DirectoryDialect.S5JS:
            return
        for key, entry in entries.items():
            if isinstance(entry, FileRef) and entry.encryption is not None:
                raise PathRefused(
                    f"{key[len(FILE_KEY) :]!a} is encrypted, and the directory {loaded.path!a} has "
                    f"{HAMT_SWITCH_ENTRIES} entries or more: S5.js would take the ciphertext for "
                    "the file. Write it with encrypt off, or into a directory of fewer entries"
                )

    def _nodes(self, loaded: Loaded) -> _Nodes:
        return _Nodes(directories=self._directories, loaded=loaded)


@dataclass(slots=True, kw_only=True)
class _Nodes:
    """Nodes on their way to the store, some at once."""

    directories: Directories
    loaded: Loaded
    waiting: list[bytes] = field(default_factory=list[bytes])

    async def store(self, node: bytes) -> bytes:
        """The digest of the blob that will hold a node; it is stored when `flush` returns."""
        sealed, digest = self.directories.prepare_node(node, self.loaded.capability)
        self.waiting.append(sealed)
        if len(self.waiting) >= _NODES_AT_ONCE:
            await self.flush()
        return digest

    async def flush(self) -> None:
        """Store what waits."""
        waiting, self.waiting = self.waiting, []
        reason = self.directories.reason("node", self.loaded.capability.cid.link)
        await put_all(
            self.directories.blobs,
            [Unstored(node, reason, may_use_reserve=True) for node in waiting],
        )


def _merged(entries: Mapping[str, T], changes: Mapping[str, T | None]) -> dict[str, T]:
    merged: dict[str, T | None] = {**entries, **changes}
    return {name: entry for name, entry in merged.items() if entry is not None}


def _blobs(digests: tuple[bytes, ...]) -> tuple[Multihash, ...]:
    return tuple(Multihash(digest) for digest in digests)
