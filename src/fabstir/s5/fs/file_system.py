"""The file system of one S5 identity, or of one directory that was shared for writing."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from fabstir.primitives.errors import AccessDenied, NotFound, PathRefused, WriteConflict
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.derivation import KEY_BYTES
from fabstir.s5.formats.directory import Cbor, DirectoryDialect, DirRef, FileRef
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.encryption import NONCE_BYTES
from fabstir.s5.formats.limits import HAMT_LEAF_ENTRIES, MAX_HAMT_LEAF_ENTRIES
from fabstir.s5.fs.authorship import Author
from fabstir.s5.fs.batch import Batch
from fabstir.s5.fs.changes import (
    Change,
    EditDirectory,
    EditFile,
    NameSlot,
    PutDirectory,
    PutFile,
    RemoveDirectory,
    RemoveFile,
    with_history,
)
from fabstir.s5.fs.commits import Commits, SlotsByPath
from fabstir.s5.fs.contents import Data
from fabstir.s5.fs.directories import Directories, Loaded
from fabstir.s5.fs.keys import MOUNTED, sealed_write_key
from fabstir.s5.fs.moving import Moving, TreePlace
from fabstir.s5.fs.paths import Segments, format_path, parse_path
from fabstir.s5.fs.plans import Plan
from fabstir.s5.fs.removal import Removal
from fabstir.s5.fs.rewriting import Rewriting
from fabstir.s5.fs.running import OngoingWrites
from fabstir.s5.fs.snapshots import Snapshot, Snapshots
from fabstir.s5.fs.tree import ReadOnlyTree
from fabstir.s5.fs.uploads import SHORT_BYTES, Uploads, Wish, gather_short
from fabstir.s5.fs.vacuum import Named, Vacuum, Vacuumed
from fabstir.s5.fs.values import (
    OWN_PREFIX,
    DirectoryInfo,
    FileInfo,
    Info,
    cid_of,
    directory_info,
    file_info,
    split_time,
    versions_of,
)
from fabstir.s5.ports import Blobs, EntryRegistry
from fabstir.s5.tables.pins import Pin

DEFAULT_MAX_VERSIONS: Final = 8
"""Older versions that a file keeps."""

DEFAULT_CACHE_BYTES: Final = 32 << 20
"""For decoded directories, and once more for opened nodes."""

DEFAULT_MIN_AGE: Final = 24 * 3600.0
"""Seconds for which `vacuum` leaves a pin alone: longer than any batch of another process."""


class FileSystem(ReadOnlyTree):
    """Reads and writes a tree.

    Safe for many tasks, and for many processes over one registry: nothing is locked, every change
    is a revision that the registry takes once. What a call acknowledged is durable.

    Args:
        root: the tree's root, writable: `Capability.of_keys(identity.file_system_root(),
            writable=True)`, or a directory that somebody shared with its write key.
        clock: Unix seconds, written beside files and never compared with anything.
        random: bytes for keys and nonces.
        is_compatible: write what Enhanced S5.js reads: its dialect, its leaves of 1,000 entries,
            and directories below the root in clear, with all names and file keys that are in them.
        max_versions: older versions that a file keeps.
        cache_bytes: for what was read, twice (directories, and nodes of large ones).

    Raises:
        AccessDenied: the capability has no write key.
    """

    def __init__(
        self,
        blobs: Blobs,
        registry: EntryRegistry,
        root: Capability,
        crypto: Crypto,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
        is_compatible: bool = False,
        max_versions: int = DEFAULT_MAX_VERSIONS,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        if root.write_key is None:
            raise AccessDenied("this capability only reads: open it with open_tree")
        directories = Directories(
            blobs,
            registry,
            crypto,
            random=random,
            dialect=DirectoryDialect.S5JS if is_compatible else DirectoryDialect.CANONICAL,
            label=f"fs:{root.cid.link[:4].hex()}",
            cache_bytes=cache_bytes,
            author=Author(root.write_key, crypto),
        )
        super().__init__(directories, root)
        leaf_entries = MAX_HAMT_LEAF_ENTRIES if is_compatible else HAMT_LEAF_ENTRIES
        rewriting = Rewriting(directories, leaf_entries)
        self._clock = clock
        self._max_versions = max_versions
        self._snapshots = Snapshots(directories, rewriting, root, clock=clock)
        self._commits = Commits(
            directories,
            rewriting,
            clock=clock,
            is_clear=is_compatible,
            may_release=self._snapshots.has_none,
        )
        self._removal = Removal(directories, self._snapshots.has_none)
        self._moving = Moving(
            directories, root, self._commits, max_versions, is_clear=is_compatible
        )
        self._running = OngoingWrites(clock)
        self._uploads = Uploads(directories, clock, max_versions)
        self._vacuum = Vacuum(directories, root, self._snapshots, self._running, clock)

    # -- files ------------------------------------------------------------------------------------

    async def put(
        self,
        path: str,
        data: Data,
        media_type: str | None = None,
        *,
        if_match: str | None = None,
        if_none_match: bool = False,
        encrypt: bool = True,
    ) -> FileInfo:
        """Write a file; directories that are missing are made. What it replaces is kept as history.

        Args:
            data: whole, or in pieces of any size; a stream is never held in memory.
            media_type: None: by the name's ending.
            if_match: the CID that must be there.
            if_none_match: whether nothing may be there.
            encrypt: under a key of its own, which its directory keeps.

        Raises:
            WriteConflict: a condition does not hold, or another writer changed the file at the
                same time; nothing of this is visible.
            PathRefused: a directory is there, or a name that looks the same.
            StorageFull, QuotaExceeded, PortalError
        """
        segments = _file_path(path, is_new=True)
        wish = Wish(
            segments=segments,
            media_type=media_type,
            if_match=if_match,
            if_none_match=if_none_match,
            encrypt=encrypt,
        )
        data = await gather_short(data)
        with self._running.hold() as write:
            plan = Plan()
            if isinstance(data, bytes) and len(data) <= SHORT_BYTES:
                unstored, change = self._uploads.prepare(wish, data, write)
                plan.at(segments[:-1]).unstored.append(unstored)
            else:
                await self._check_target(segments, if_match, if_none_match=if_none_match)
                change = await self._uploads.store(wish, data, write)
            plan.add(segments, change)
            outcome = await self._commits.commit(plan, self._root)
        return _written(segments, outcome)

    @asynccontextmanager
    async def batch(self) -> AsyncGenerator[Batch]:
        """Collect changes and make them visible when the block ends without an error.

        Each directory that is touched is written once and gets one revision: all of its changes
        are visible, or none. Content is stored as it comes; if the block fails it is released.

        Raises:
            WriteConflict: as `put`, for any of the files. Directories are written the deepest
                first, and those that were written before the conflict stay.
        """
        with self._running.hold() as write:
            batch = Batch(self._uploads, write)
            try:
                yield batch
                await batch.flush()
            except Exception:
                await self._directories.release(batch.plan.blobs())
                raise
            batch.outcome = await self._commits.commit(batch.plan, self._root)

    async def set_metadata(
        self,
        path: str,
        metadata: Mapping[Cbor, Cbor],
        *,
        media_type: str | None = None,
        if_match: str | None = None,
    ) -> Info:
        """Replace what is kept beside a file or directory.

        Args:
            metadata: text keys; not beginning with "fabstir.".
            media_type: of a file; None: as it was.

        Raises:
            NotFound, WriteConflict
        """
        segments = _file_path(path)
        _check_metadata(metadata)
        text = format_path(segments)

        def edit_file(file: FileRef) -> FileRef:
            extra = _replaced(file.extra, metadata)
            return replace(file, media_type=media_type or file.media_type, extra=extra)

        def edit_directory(ref: DirRef) -> DirRef:
            return replace(ref, extra=_replaced(ref.extra, metadata))

        if (await self._slot(segments)).file is None:
            outcome = await self._commit(segments, EditDirectory(path=text, edit=edit_directory))
            ref = outcome[segments].directory
            assert ref is not None, "the edit found a directory"
            return directory_info(text, ref)
        change = EditFile(path=text, edit=edit_file, if_match=if_match)
        return _written(segments, await self._commit(segments, change))

    async def restore(self, path: str, version: str, *, if_match: str | None = None) -> FileInfo:
        """Let an older version be the newest; the others stay its history.

        Raises:
            NotFound: no such file, or version.
        """
        segments = _file_path(path)
        seconds, nanos = split_time(self._clock())

        def edit(file: FileRef) -> FileRef:
            versions = versions_of(file)
            chosen = next((old for old in versions if cid_of(old) == version), None)
            if chosen is None:
                raise NotFound(f"{path!a} has no version {version}")
            newest = replace(chosen, timestamp=seconds, timestamp_nanos=nanos)
            return with_history(newest, versions, self._max_versions)

        change = EditFile(path=format_path(segments), edit=edit, if_match=if_match)
        return _written(segments, await self._commit(segments, change))

    # -- both -------------------------------------------------------------------------------------

    async def delete(
        self, path: str, *, recursive: bool = False, if_match: str | None = None
    ) -> None:
        """Delete a file with its history, or a directory.

        A directory's content goes the deepest first; a crash in between leaves a part of it.

        Raises:
            NotFound: there is nothing.
            PathRefused: a directory that is not empty, and `recursive` is off; or the root.
            WriteConflict: `if_match` does not hold, or somebody changed the file meanwhile.
        """
        segments = _file_path(path)
        *above, parent = await self._directories_on(segments[:-1])
        slot = (await self._directories.slot(parent, segments[-1]))[1]
        text = format_path(segments)
        change: Change = RemoveFile(path=text, if_match=if_match)
        if slot.file is None and slot.directory is not None:
            if if_match is not None:
                raise PathRefused(f"{path!a} is a directory, which has no CID to match")
            await self._removal.end(
                parent,
                segments,
                slot.directory,
                above=frozenset(loaded.capability.cid.link for loaded in (*above, parent)),
                is_recursive=recursive,
            )
            change = RemoveDirectory(path=text, ref=slot.directory)
        plan = Plan(segments[:-1])
        plan.changes[segments[-1]] = [change]
        await self._commits.commit(plan, parent.capability, must_exist=True)

    async def move(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """Give a file or directory another path; a directory with all that is in it, at once.

        Within one directory it is one revision. Across directories the new place is published
        before the old one goes: a crash in between leaves both, and each may be deleted.

        Args:
            overwrite: whether a file may be there; it becomes history of the moved one.

        Raises:
            NotFound: there is no source.
            WriteConflict: something is at the target, or somebody changed the source meanwhile, or
                is moving a directory above the target.
            PathRefused: a directory into itself; or in a compatible tree, where S5.js would no
                longer find the key.
        """
        from_ = _file_path(source)
        to = from_ if source == target else _file_path(target, is_new=True)
        taken = await self._place(from_)
        if from_ != to:
            await self._moving.move(taken, await self._place(to), overwrite=overwrite)
        elif taken.slot.is_empty:
            raise NotFound(f"there is no file or directory {source!a}")

    async def make_directory(self, path: str) -> DirectoryInfo:
        """Make a directory and those above it, as far as they are missing.

        Raises:
            PathRefused: a file is there.
        """
        segments = parse_path(path)
        plan = Plan()
        plan.at(segments)
        await self._commits.commit(plan, self._root)
        info = await self.stat(path)
        if not isinstance(info, DirectoryInfo):
            raise WriteConflict(path, "a file took the name")
        return info

    # -- sharing and keeping ----------------------------------------------------------------------

    async def share(self, path: str = "", *, is_writable: bool = False) -> str:
        """The capability of a directory as text: whoever has it reads all below, now and later.

        A file is shared by its directory, or by a snapshot of it.

        Args:
            is_writable: whether the text also lets them write.

        Raises:
            NotFound: there is no such directory.
            PathRefused: a file.
            AccessDenied: it may not be written here either.
        """
        loaded = await self._directory_of_share(path)
        if not is_writable:
            return loaded.capability.cid.encode()
        if loaded.capability.write_key is None:
            raise AccessDenied(f"{path!a} was shared for reading only")
        return loaded.capability.encode()

    async def mount(self, path: str, capability: str) -> DirectoryInfo:
        """Let a path lead to a directory that somebody shared.

        Deleting the path leaves the directory alone.

        Raises:
            RemoteProtocolError: not a capability.
            WriteConflict: something is there.
        """
        segments = _file_path(path, is_new=True)
        crypto = self._directories.crypto
        shared = Capability.decode(capability, crypto)
        await self.make_directory(format_path(segments[:-1]))
        parent = (await self._directory(segments[:-1])).capability
        seconds, nanos = split_time(self._clock())
        extra: dict[Cbor, Cbor] = {MOUNTED: True}
        if shared.write_key is not None:
            nonce = self._directories.random(NONCE_BYTES)
            extra |= sealed_write_key(parent, shared, nonce, crypto)
        ref = DirRef(
            kind=shared.cid.kind,
            link=shared.cid.link,
            encryption_key=shared.cid.encryption_key,
            timestamp=seconds,
            timestamp_nanos=nanos,
            extra=extra,
        )
        text = format_path(segments)
        plan = Plan(segments[:-1])
        plan.changes[segments[-1]] = [PutDirectory(path=text, ref=ref)]
        await self._commits.commit(plan, parent, must_exist=True)
        return directory_info(text, ref)

    async def snapshot(self, path: str = "") -> Snapshot:
        """Keep a directory, or a file with its history, as it is now.

        The text in it opens the copy for reading, for ever: later changes do not reach it, and its
        key opens nothing else. Every directory is in it as it was at some moment of the call.
        The entries of one directory are in memory at a time.

        Raises:
            NotFound: there is nothing.
        """
        segments = parse_path(path)
        with self._running.hold():
            if not segments:
                return await self._snapshots.make(await self._directory(()), None)
            place = await self._place(segments)
            if place.slot.file is not None:
                return await self._snapshots.make(place.parent, (segments[-1], place.slot.file))
            return await self._snapshots.make(await self._directory(segments), None)

    async def snapshots(self) -> tuple[Snapshot, ...]:
        """Those that are kept, oldest first."""
        return await self._snapshots.list()

    async def drop_snapshot(self, capability: str) -> None:
        """Keep a snapshot no longer; `vacuum` releases its blobs. Raises NotFound."""
        await self._snapshots.drop(capability)

    async def vacuum(
        self, pins: AsyncIterable[Pin], *, min_age: float = DEFAULT_MIN_AGE
    ) -> Vacuumed:
        """Release pins of this tree that neither it, its history nor its snapshots need.

        To be run on the whole tree by whoever owns its pins: what a part of it that was shared for
        writing no longer names, the rest of the tree may. Other processes may write meanwhile, if
        none of their writes takes longer than `min_age`.

        What a directory may need that cannot be read stays, and the answer says which one it is;
        what only the others needed goes.

        Args:
            pins: of the owner whose `Blobs` this file system has: `store.pins(owner)`.
            min_age: seconds for which a new pin is left alone.

        Raises:
            CorruptBlob, AccessDenied, RemoteProtocolError, PortalError: the root, or the index of
                snapshots, cannot be read, so nothing is released.
            WriteConflict: the root never stood still, or a snapshot is being made; nothing is
                released.
        """
        return await self._vacuum.run(pins, min_age)

    async def named(self) -> Named:
        """The blobs that the tree, its history and its snapshots need, as far as it can be read.

        Raises:
            CorruptBlob, AccessDenied, RemoteProtocolError, PortalError: its root cannot be.
            WriteConflict: it never stood still, or a snapshot is being made.
        """
        return await self._vacuum.named()

    def reason(self, what: str) -> str:
        """Why a blob of this tree is pinned; `vacuum` looks at pins with such reasons."""
        return self._directories.reason(what)

    # -- parts ------------------------------------------------------------------------------------

    async def _commit(self, segments: Segments, change: Change) -> SlotsByPath:
        plan = Plan()
        plan.add(segments, change)
        return await self._commits.commit(plan, self._root)

    async def _place(self, segments: Segments) -> TreePlace:
        parent = await self._directory(segments[:-1])
        slot = (await self._directories.slot(parent, segments[-1]))[1]
        return TreePlace(parent, segments, slot)

    async def _check_target(
        self, segments: Segments, if_match: str | None, *, if_none_match: bool
    ) -> None:
        """Refuse early what would be refused after hours of upload."""
        try:
            slot = await self._slot(segments)
        except NotFound:
            slot = NameSlot()
        nothing = FileRef(hash=bytes(KEY_BYTES), size=0)
        PutFile(
            path=format_path(segments),
            file=nothing,
            max_versions=0,
            if_match=if_match,
            if_none_match=if_none_match,
        ).apply(slot)

    async def _directory_of_share(self, path: str) -> Loaded:
        segments = parse_path(path, is_new=False)
        if segments and (await self._slot(segments)).file is not None:
            raise PathRefused(f"{path!a} is a file: share its directory, or a snapshot of it")
        return await self._directory(segments)


def _file_path(path: str, *, is_new: bool = False) -> Segments:
    segments = parse_path(path, is_new=is_new)
    if not segments:
        raise PathRefused("this is the root, which is a directory and stays where it is")
    return segments


def _written(segments: Segments, outcome: SlotsByPath) -> FileInfo:
    file = outcome[segments].file
    assert file is not None, "the change puts or edits a file"
    return file_info(format_path(segments), file)


def _check_metadata(metadata: Mapping[Cbor, Cbor]) -> None:
    for key in metadata:
        if not isinstance(key, str) or key.startswith(OWN_PREFIX) or key == "encryption":
            raise PathRefused(f"{key!a} is no name for metadata: text, of your own choice")


def _replaced(extra: Mapping[Cbor, Cbor], metadata: Mapping[Cbor, Cbor]) -> dict[Cbor, Cbor]:
    kept = {
        key: value
        for key, value in extra.items()
        if not isinstance(key, str) or key.startswith(OWN_PREFIX)
    }
    return {**kept, **metadata}
