"""Snapshots: directories copied under keys of their own, listed in an index beside the tree.

A snapshot has its own directories and HAMT nodes, so that its key opens nothing that is written
later; the files' blobs it shares with the tree. While there is a snapshot, or one is being made,
writers release nothing themselves: only `vacuum` sees both the tree and the snapshots. So that this
holds for writers of other processes too, the index names a snapshot before the first directory is
read for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from fabstir.primitives.errors import NotFound, PathRefused, RemoteProtocolError, StorageError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.derivation import KEY_BYTES, child_directory
from fabstir.s5.formats.directory import Directory, DirRef, FileRef, LinkKind
from fabstir.s5.formats.directory_cid import Capability, DirectoryCid
from fabstir.s5.formats.limits import MAX_PATH_DEPTH
from fabstir.s5.fs.authorship import unmarked
from fabstir.s5.fs.changes import PutDirectory, RemoveDirectory
from fabstir.s5.fs.commits import Commits
from fabstir.s5.fs.directories import EMPTY, FILE_KEY, Directories, Loaded, State
from fabstir.s5.fs.keys import child_of, plain_extra
from fabstir.s5.fs.plans import Plan
from fabstir.s5.fs.rewriting import Rewriting
from fabstir.s5.fs.values import split_time

_LOG = logging.getLogger(__name__)

_INDEX: Final = "\0snapshots"
"""Derives the index's keys from the root's. No name begins with NUL, so no directory has them."""

_BEGUN: Final = "begun-"
"""Begins the name of a snapshot that is being made."""

_Copied = dict[tuple[bytes, bytes | None], DirRef]
"""Copies of directories, by link and key."""

NOTHING: Final = bytes(KEY_BYTES)
"""The link of a snapshot that is being made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot that is kept.

    Attributes:
        capability: the text that opens it, for whoever has it.
        created_at: Unix seconds by its maker's clock.
    """

    capability: str
    created_at: float


def index_of(root: Capability, crypto: Crypto) -> Capability:
    """The directory that names a tree's snapshots. Raises ValueError: the root only reads."""
    if root.write_key is None:
        raise ValueError("only who writes a tree has an index of snapshots")
    return Capability.of_keys(child_directory(root.write_key, _INDEX, crypto), writable=True)


class Snapshots:
    """Makes, lists and drops the snapshots of a tree."""

    def __init__(
        self,
        directories: Directories,
        rewriting: Rewriting,
        root: Capability,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._directories = directories
        self._rewriting = rewriting
        self._clock = clock
        self._index = index_of(root, directories.crypto)
        self._commits = Commits(
            directories, rewriting, clock=clock, is_clear=False, may_release=self.has_none
        )

    async def has_none(self) -> bool:
        """Whether there is certainly no snapshot, and none is being made."""
        try:
            loaded = await self._directories.load(self._index, "the index of snapshots")
        except (StorageError, RemoteProtocolError) as exc:
            # What this decides comes after a write that is durable: it must not fail it.
            _LOG.warning("the index of snapshots cannot be read", extra={"reason": str(exc)})
            return False
        return not loaded.directory.dirs and loaded.directory.sharding is None

    async def make(self, source: Loaded, file: tuple[str, FileRef] | None) -> Snapshot:
        """Copy a directory, or one file of it.

        Raises:
            PathRefused: it is deeper than MAX_PATH_DEPTH.
        """
        begun = _BEGUN + self._directories.random(8).hex()
        await self._name(begun, self._reference(NOTHING, None))
        if file is None:
            # Read anew: what was read before the index named this may have been released.
            try:
                fresh = (await self._directories.load(source.capability, source.path)).live()
                ref = await self._copy(fresh, frozenset(), {})
            except PathRefused:
                await self._forget(begun)
                raise
        else:
            name, version = file
            ref = await self._store(source, Directory(files={name: version}, dirs={}), keep=True)
        await self._name(ref.link.hex(), ref)
        await self._forget(begun)
        return _snapshot(ref)

    async def list(self) -> tuple[Snapshot, ...]:
        """All that are kept, oldest first."""
        loaded = await self._directories.load(self._index, "the index of snapshots")
        kept: list[Snapshot] = []
        async for key, ref in self._directories.entries(loaded, None):
            if isinstance(ref, DirRef) and not key[len(FILE_KEY) :].startswith(_BEGUN):
                kept.append(_snapshot(ref))
        return tuple(sorted(kept, key=lambda snapshot: snapshot.created_at))

    async def drop(self, capability: str) -> None:
        """Keep a snapshot no longer; `vacuum` releases what only it needed. Raises NotFound."""
        cid = DirectoryCid.decode(capability)
        if not await self._forget(cid.link.hex()):
            raise NotFound("there is no such snapshot of this tree")

    async def forget_abandoned(self, begun_before: float) -> None:
        """Forget snapshots that were begun and never finished: their makers are gone."""
        loaded = await self._directories.load(self._index, "the index of snapshots")
        names: list[str] = []
        async for key, ref in self._directories.entries(loaded, None):
            name = key[len(FILE_KEY) :]
            if name.startswith(_BEGUN) and (ref.timestamp or 0) < begun_before:
                names.append(name)
        for name in names:
            await self._forget(name)

    # -- copying ----------------------------------------------------------------------------------

    async def _copy(self, loaded: Loaded, above: frozenset[bytes], copied: _Copied) -> DirRef:
        """A directory and those below it that belong to this tree, under new keys.

        Args:
            above: links of the directories that lead here.
            copied: what was copied so far. A directory may have many names, and what is in it, too:
                copied for every path, thirty directories of two names each would be a billion.
        """
        link = loaded.capability.cid.link
        if link in above:
            raise PathRefused(
                f"{loaded.path!a} leads back to a directory above it, and a copy cannot: delete "
                "that name (`rm -r` leaves the directory alone)"
            )
        if len(above) > MAX_PATH_DEPTH:
            raise PathRefused(f"{loaded.path!a} is deeper than {MAX_PATH_DEPTH} directories")
        files: dict[str, FileRef] = {}
        dirs: dict[str, DirRef] = {}
        async for key, entry in self._directories.entries(loaded, None):
            name = key[len(FILE_KEY) :]
            if isinstance(entry, FileRef):
                files[name] = entry
            else:
                dirs[name] = await self._copy_below(loaded, name, entry, above | {link}, copied)
        header = unmarked(loaded.directory).header
        return await self._store(loaded, Directory(files=files, dirs=dirs, header=header))

    async def _copy_below(
        self, parent: Loaded, name: str, ref: DirRef, above: frozenset[bytes], copied: _Copied
    ) -> DirRef:
        child = child_of(parent.capability, name, ref, self._directories.crypto)
        plain = replace(ref, extra=plain_extra(ref))
        if child.write_key is None:
            return plain
        key = child.cid.link, child.cid.encryption_key
        if (copy := copied.get(key)) is None:
            loaded = await self._directories.load(child, f"{parent.path}/{name}".lstrip("/"))
            if loaded.state is not State.PRESENT:
                loaded = replace(loaded, directory=EMPTY)
            copy = copied[key] = await self._copy(loaded, above, copied)
        return replace(plain, kind=copy.kind, link=copy.link, encryption_key=copy.encryption_key)

    async def _store(self, source: Loaded, directory: Directory, *, keep: bool = False) -> DirRef:
        is_sealed = keep or source.capability.cid.encryption_key is not None
        key = self._directories.random(KEY_BYTES) if is_sealed else None
        cid = DirectoryCid(kind=LinkKind.FIXED, link=NOTHING, encryption_key=key)
        target = replace(source, capability=Capability(cid), directory=EMPTY)
        rewritten = await self._rewriting.arrange(target, directory)
        blob = await self._directories.store_directory(
            rewritten.directory, rewritten.encoded, target.capability
        )
        return self._reference(blob.digest, key)

    # -- the index --------------------------------------------------------------------------------

    def _reference(self, link: bytes, key: bytes | None) -> DirRef:
        seconds, nanos = split_time(self._clock())
        return DirRef(
            kind=LinkKind.FIXED,
            link=link,
            encryption_key=key,
            timestamp=seconds,
            timestamp_nanos=nanos,
        )

    async def _name(self, name: str, ref: DirRef) -> None:
        plan = Plan()
        plan.add((name,), PutDirectory(path=name, ref=ref))
        await self._commits.commit(plan, self._index)

    async def _forget(self, name: str) -> bool:
        loaded = await self._directories.load(self._index, "the index of snapshots")
        ref = (await self._directories.slot(loaded, name))[1].directory
        if ref is None:
            return False
        plan = Plan()
        plan.add((name,), RemoveDirectory(path=name, ref=ref))
        await self._commits.commit(plan, self._index)
        return True


def _snapshot(ref: DirRef) -> Snapshot:
    created_at = (ref.timestamp or 0) + (ref.timestamp_nanos or 0) / 1e9
    return Snapshot(capability=DirectoryCid.of(ref).encode(), created_at=created_at)
