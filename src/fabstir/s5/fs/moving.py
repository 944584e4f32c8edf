"""Moving and renaming files and directories.

Within one directory a move is one revision. Across directories it is three: what is at the source
is marked, so that deleting it later leaves alone what the target names; the target is published;
the source goes. At every moment there is at least one of the two.

Two writers who move two directories into each other would make a ring that no path leads to. So who
has marked a directory looks for marks above its target: of two such writers one, at least, sees
the other's.
"""

from __future__ import annotations

from dataclasses import replace

from fabstir.primitives.errors import NotFound, PathRefused, WriteConflict
from fabstir.s5.formats.directory import DirRef, FileRef
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.encryption import NONCE_BYTES
from fabstir.s5.fs.changes import (
    Change,
    EditDirectory,
    EditFile,
    NameSlot,
    PutDirectory,
    PutFile,
    RemoveDirectory,
    TakeAway,
)
from fabstir.s5.fs.commits import Commits
from fabstir.s5.fs.contents import blob_of
from fabstir.s5.fs.directories import Directories, Loaded
from fabstir.s5.fs.keys import MOUNTED, MOVING, child_of, plain_extra, sealed_write_key
from fabstir.s5.fs.ownership import mark_shared, own_blobs
from fabstir.s5.fs.paths import Segments, format_path
from fabstir.s5.fs.plans import Plan
from fabstir.s5.fs.values import versions_of


class TreePlace:
    """A name in a directory that exists."""

    def __init__(self, parent: Loaded, segments: Segments, slot: NameSlot) -> None:
        self.parent = parent
        self.segments = segments
        self.slot = slot

    @property
    def path(self) -> str:
        """For errors."""
        return format_path(self.segments)


class Moving:
    """Moves within one tree.

    Args:
        root: the tree's.
        is_clear: whether the tree is one for S5.js.
    """

    def __init__(
        self,
        directories: Directories,
        root: Capability,
        commits: Commits,
        max_versions: int,
        *,
        is_clear: bool,
    ) -> None:
        self._directories = directories
        self._root = root
        self._commits = commits
        self._max_versions = max_versions
        self._is_clear = is_clear

    async def move(self, source: TreePlace, target: TreePlace, *, overwrite: bool) -> None:
        """As `FileSystem.move`."""
        if source.slot.file is not None:
            await self._move_file(source, target, source.slot.file, overwrite=overwrite)
        elif source.slot.directory is not None:
            await self._move_directory(source, target, source.slot.directory)
        else:
            raise NotFound(f"there is no file or directory {source.path!a}")

    async def _move_file(
        self, source: TreePlace, target: TreePlace, file: FileRef, *, overwrite: bool
    ) -> None:
        placed = self._placed(target, file, overwrite=overwrite)
        if _is_same_directory(source, target):
            taken = TakeAway(path=source.path, file=file, is_strict=True)
            await self._commit(source, {source.segments[-1]: taken, target.segments[-1]: placed})
            return
        placed.apply(target.slot)
        marked = mark_shared(file)

        def mark(current: FileRef) -> FileRef:
            if current not in (file, marked):
                raise WriteConflict(source.path, "somebody changed it while it was moved")
            return marked

        if await self._is_mounted(source) or await self._is_mounted(target):
            await self._hold(file)
        await self._commit(source, {source.segments[-1]: EditFile(path=source.path, edit=mark)})
        own = list(own_blobs(file))
        await self._directories.relabel(own, self._directories.reason("file"))
        placed = self._placed(target, marked, overwrite=overwrite)
        await self._commit(target, {target.segments[-1]: placed})
        taken = TakeAway(path=source.path, file=marked, is_strict=False)
        await self._commit(source, {source.segments[-1]: taken})
        link = target.parent.capability.cid.link
        await self._directories.relabel(own, self._directories.reason("file", link))

    async def _is_mounted(self, place: TreePlace) -> bool:
        """Whether a place is in a directory that belongs to another tree."""
        loaded = await self._directories.load(self._root, "")
        for depth, name in enumerate(place.segments[:-1], 1):
            ref = (await self._directories.slot(loaded, name))[1].directory
            if ref is None or MOUNTED in ref.extra:
                return ref is not None
            child = child_of(loaded.capability, name, ref, self._directories.crypto)
            loaded = await self._directories.load(child, format_path(place.segments[:depth]))
        return False

    async def _hold(self, file: FileRef) -> None:
        """Keep the blobs of a file and its history here, whoever did so far.

        Who kept them for their place in one tree, this identity's other machines or the owner of a
        mounted directory, lets them go when they are not there any more, and cannot always look
        into the other tree.

        Raises:
            NotFound, PortalError: nobody has one of them now.
        """
        for version in versions_of(file):
            pieces = self._directories.blobs.read(blob_of(version))
            await self._directories.blobs.put(pieces, reason=self._directories.reason("file"))

    def _placed(self, target: TreePlace, file: FileRef, *, overwrite: bool) -> PutFile:
        return PutFile(
            path=target.path,
            file=file,
            max_versions=self._max_versions,
            is_new=False,
            if_none_match=not overwrite,
        )

    async def _move_directory(self, source: TreePlace, target: TreePlace, ref: DirRef) -> None:
        if target.segments[: len(source.segments)] == source.segments:
            raise PathRefused(f"{source.path!a} cannot be moved into itself")
        if not target.slot.is_empty:
            raise WriteConflict(target.path, "something of this name exists already")
        put = PutDirectory(path=target.path, ref=self._at_target(source, target, ref))
        if _is_same_directory(source, target):
            gone = RemoveDirectory(path=source.path, ref=ref)
            await self._commit(source, {source.segments[-1]: gone, target.segments[-1]: put})
            return
        marked = replace(ref, extra={**ref.extra, MOVING: True})

        def mark(current: DirRef) -> DirRef:
            if current not in (ref, marked):
                raise WriteConflict(source.path, "somebody changed it while it was moved")
            return marked

        edit = EditDirectory(path=source.path, edit=mark)
        await self._commit(source, {source.segments[-1]: edit})
        try:
            await self._check_above(target)
        except (NotFound, WriteConflict):
            edit = EditDirectory(path=source.path, edit=lambda now: ref if now == marked else now)
            await self._commit(source, {source.segments[-1]: edit})
            raise
        await self._commit(target, {target.segments[-1]: put})
        gone = RemoveDirectory(path=source.path, ref=marked)
        await self._commit(source, {source.segments[-1]: gone})

    async def _check_above(self, target: TreePlace) -> None:
        """See that the target is where it was, and that nobody moves a directory above it.

        Raises:
            NotFound: a directory above it is gone.
            WriteConflict: another directory has its name, or one is being moved.
        """
        loaded = await self._directories.load(self._root, "")
        for depth, name in enumerate(target.segments[:-1], 1):
            path = format_path(target.segments[:depth])
            ref = (await self._directories.slot(loaded, name))[1].directory
            if ref is None:
                raise NotFound(f"there is no directory {path!a} any more: somebody moved it")
            if MOVING in ref.extra:
                raise WriteConflict(
                    path,
                    "somebody is moving it. If nobody is, a move of it was broken off: see where "
                    "it is, and give it another name once, which ends that",
                )
            child = child_of(loaded.capability, name, ref, self._directories.crypto)
            loaded = (await self._directories.load(child, path)).live()
        if loaded.capability.cid.link != target.parent.capability.cid.link:
            raise WriteConflict(loaded.path, "it is another directory now")

    def _at_target(self, source: TreePlace, target: TreePlace, ref: DirRef) -> DirRef:
        """The reference as it stands in the target's parent, which keeps the write key."""
        crypto, parent = self._directories.crypto, target.parent.capability
        child = child_of(source.parent.capability, source.segments[-1], ref, crypto)
        if child.write_key is None:
            return ref
        if self._is_clear:
            raise PathRefused(
                f"S5.js finds the write key of {source.path!a} by its name: make a new directory "
                "and move the files"
            )
        sealed = sealed_write_key(parent, child, self._directories.random(NONCE_BYTES), crypto)
        return replace(ref, extra={**plain_extra(ref), **sealed})

    async def _commit(self, place: TreePlace, changes: dict[str, Change]) -> None:
        plan = Plan(place.segments[:-1], {name: [change] for name, change in changes.items()})
        await self._commits.commit(plan, place.parent.capability, must_exist=True)


def _is_same_directory(source: TreePlace, target: TreePlace) -> bool:
    return source.parent.capability.cid.link == target.parent.capability.cid.link
