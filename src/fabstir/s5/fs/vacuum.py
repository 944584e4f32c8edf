"""Finding blobs that nothing names any more: left by crashes, dropped snapshots or shares.

What is pinned and old enough is a candidate; everything that the tree, its history and its
snapshots name is taken off the list; the rest is released. Writers go on meanwhile: a file that is
moved from a directory that was not looked at yet into one that was is caught because the walk is
repeated for every directory whose revision changed, until none did.

A directory that cannot be read holds up nothing but what it may need. Pins say for which directory
they were made, so what the readable ones no longer need still goes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import RemoteProtocolError, WriteConflict
from fabstir.s5.formats.directory import DirRef, FileRef, LinkKind
from fabstir.s5.formats.directory_cid import Capability, DirectoryCid
from fabstir.s5.fs.directories import (
    FILE_KEY,
    LABEL_BYTES,
    UNREADABLE,
    Directories,
    State,
)
from fabstir.s5.fs.keys import MOUNTED, child_of
from fabstir.s5.fs.running import OngoingWrites
from fabstir.s5.fs.snapshots import NOTHING, Snapshots, index_of
from fabstir.s5.fs.values import versions_of
from fabstir.s5.tables.pins import Pin

_MAX_PASSES: Final = 32
"""How often directories that change during the walk are walked again."""

_RELEASED_AT_ONCE: Final = 512

_MAX_NAMED: Final = 1000
"""Directories that cannot be read of which the paths are remembered: somebody hostile may make as
many as he likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacuumed:
    """What a vacuum did.

    Attributes:
        num_pins: pins of this tree that were looked at.
        num_released, released_bytes: those that nothing named.
        num_kept: those that nothing named, and that may be what a directory needs that could not
            be read.
        unreadable: what is wrong, by the paths of those directories.
    """

    num_pins: int
    num_released: int
    released_bytes: int
    num_kept: int = 0
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a tree needs.

    Attributes:
        digests: of all blobs that it, its history and its snapshots name.
        unreadable: as of `Vacuumed`; what they name is missing.
    """

    digests: set[bytes]
    unreadable: Mapping[str, str]


@dataclass(slots=True)
class _Walk:
    """Directories that were walked, and what is done with each blob that one of them names."""

    keep: Callable[[Multihash], None]
    revisions: dict[bytes, tuple[_Step, int]] = field(
        default_factory=dict[bytes, "tuple[_Step, int]"]
    )
    fixed: set[bytes] = field(default_factory=set[bytes])
    unreadable: dict[str, str] = field(default_factory=dict[str, str])
    is_ours_unreadable: bool = False
    """Whether one of them belongs to this tree, and is not below what was mounted."""
    is_snapshot_unreadable: bool = False

    def give_up(self, step: _Step, reason: str) -> None:
        """Go on without a directory."""
        cid = step.capability.cid
        self.revisions.pop(cid.link, None)
        if len(self.unreadable) < _MAX_NAMED:
            self.unreadable[step.path] = reason
        self.is_ours_unreadable |= not step.is_mounted
        self.is_snapshot_unreadable |= cid.kind is LinkKind.FIXED

    def labels(self, *, of_files: bool) -> set[str]:
        """Of the directories that were read, beside the pins of what is in them. In a mounted
        directory others move files about."""
        found = {
            _label(link)
            for link, (step, _) in self.revisions.items()
            if not (of_files and step.is_mounted)
        }
        return found if of_files or self.is_snapshot_unreadable else {*found, _label(NOTHING)}


@dataclass(frozen=True, slots=True)
class _Step:
    """A directory on the walk.

    Attributes:
        is_mounted: whether it is, or is below, a directory of another tree.
    """

    capability: Capability
    path: str
    is_mounted: bool = False


class Vacuum:
    """Releases what a tree no longer names."""

    def __init__(
        self,
        directories: Directories,
        root: Capability,
        snapshots: Snapshots,
        running: OngoingWrites,
        clock: Callable[[], float],
    ) -> None:
        self._directories = directories
        self._root = root
        self._snapshots = snapshots
        self._running = running
        self._clock = clock

    async def run(self, pins: AsyncIterable[Pin], min_age: float) -> Vacuumed:
        """As `FileSystem.vacuum`."""
        now = self._clock()
        before = min(now - min_age, self._running.oldest(now))
        await self._snapshots.forget_abandoned(before)
        candidates: dict[bytes, tuple[int, str]] = {}
        num_pins = 0
        async for pin in pins:
            if pin.reason.startswith(f"{self._directories.label}:"):
                num_pins += 1
                if pin.created_at < before:
                    candidates[pin.blob.digest] = pin.blob.size, sys.intern(pin.reason)

        def keep(blob: Multihash) -> None:
            candidates.pop(blob.digest, None)

        walk = _Walk(keep=keep)
        await self._settle(walk)
        for blob in self._running.stored():
            keep(blob)
        num_unnamed = len(candidates)
        if walk.unreadable:
            garbage = self._garbage(walk)
            candidates = {k: found for k, found in candidates.items() if garbage(found[1])}
        remaining = iter(candidates)
        while some := list(islice(remaining, _RELEASED_AT_ONCE)):
            await self._directories.release(Multihash(digest) for digest in some)
        return Vacuumed(
            num_pins=num_pins,
            num_released=len(candidates),
            released_bytes=sum(size for size, _ in candidates.values()),
            num_kept=num_unnamed - len(candidates),
            unreadable=walk.unreadable,
        )

    def _garbage(self, walk: _Walk) -> Callable[[str], bool]:
        """Tells by a pin's reason whether nothing can need what the walk did not find, although
        some directories could not be read.

        The blobs of a directory that was read are its own for ever. A file may have been moved from
        there into one of this tree that cannot be read, by another machine of this identity; into a
        mounted one nobody moves what he does not hold himself.
        """
        labels = walk.labels(of_files=False)
        of_files = set[str]() if walk.is_ours_unreadable else walk.labels(of_files=True)

        def is_garbage(reason: str) -> bool:
            label, word = self._directories.label_of(reason)
            return label in (of_files if word == "file" else labels)

        return is_garbage

    async def named(self) -> Named:
        """As `FileSystem.named`."""
        digests: set[bytes] = set()
        walk = _Walk(keep=lambda blob: digests.add(blob.digest))
        await self._settle(walk)
        return Named(digests=digests, unreadable=walk.unreadable)

    async def _settle(self, walk: _Walk) -> None:
        """Walk until nothing changes under the walk.

        Raises:
            WriteConflict: the root, or the index of snapshots, never stood still.
        """
        index = index_of(self._root, self._directories.crypto)
        needed = _Step(self._root, ""), _Step(index, "the index of snapshots")
        todo = list(needed)
        for _ in range(_MAX_PASSES):
            for step in todo:
                await self._visit(walk, step, is_needed=step in needed)
            todo = [
                step
                for step, revision in list(walk.revisions.values())
                if await self._has_changed(walk, step, revision, is_needed=step in needed)
            ]
            if not todo:
                return
        for step in todo:
            if step in needed:
                raise WriteConflict("the tree", "writers were too busy for a vacuum: try later")
            walk.give_up(step, "somebody was writing it all the time")

    async def _has_changed(
        self, walk: _Walk, step: _Step, revision: int, *, is_needed: bool
    ) -> bool:
        try:
            loaded = await self._directories.load(step.capability, step.path)
        except UNREADABLE as error:
            if is_needed:
                raise
            walk.give_up(step, str(error))
            return False
        return loaded.revision != revision

    async def _visit(self, walk: _Walk, first: _Step, *, is_needed: bool) -> None:
        """Keep everything that a directory names, and what is below it."""
        # What is ours first: a directory of ours may be mounted in our own tree, too.
        ours, mounted = [first], list[_Step]()
        while ours or mounted:
            step = (ours or mounted).pop()
            if step is not first and self._is_known(walk, step.capability):
                continue
            try:
                for below in await self._look(walk, step):
                    (mounted if below.is_mounted else ours).append(below)
            except UNREADABLE as error:
                if is_needed and step is first:
                    raise
                walk.give_up(step, str(error))

    @staticmethod
    def _is_known(walk: _Walk, capability: Capability) -> bool:
        link = capability.cid.link
        is_fixed = capability.cid.kind is LinkKind.FIXED
        return link in walk.fixed if is_fixed else link in walk.revisions

    async def _look(self, walk: _Walk, step: _Step) -> list[_Step]:
        """One directory; those in it that may hold pins of this tree."""
        capability, path = step.capability, step.path
        loaded = await self._directories.load(capability, path)
        if capability.cid.kind is LinkKind.FIXED:
            walk.fixed.add(capability.cid.link)
        else:
            walk.revisions[capability.cid.link] = step, loaded.revision
        if loaded.state is not State.PRESENT:
            return []
        if loaded.blob is not None:
            walk.keep(loaded.blob)
        below: list[_Step] = []
        async for key, entry in self._directories.entries(loaded, None, on_node=walk.keep):
            name = key[len(FILE_KEY) :]
            if isinstance(entry, FileRef):
                for version in versions_of(entry):
                    walk.keep(Multihash(version.hash))
            elif (child := self._below(walk, step, name, entry)) is not None:
                below.append(child)
        return below

    def _below(self, walk: _Walk, parent: _Step, name: str, ref: DirRef) -> _Step | None:
        """What may hold pins of this tree: what it may write, and its snapshots.

        Raises:
            WriteConflict: one of them is being made.
        """
        path, is_mounted = f"{parent.path}/{name}", parent.is_mounted or MOUNTED in ref.extra
        index = index_of(self._root, self._directories.crypto)
        if ref.kind is LinkKind.MUTABLE:
            try:
                child = child_of(parent.capability, name, ref, self._directories.crypto)
            except RemoteProtocolError as error:
                walk.give_up(_Step(Capability(DirectoryCid.of(ref)), path, is_mounted), str(error))
                return None
            return None if child.write_key is None else _Step(child, path, is_mounted)
        is_snapshot = parent.capability.cid.kind is LinkKind.FIXED or (
            parent.capability.cid == index.cid
        )
        if is_snapshot and ref.link == NOTHING:
            raise WriteConflict(
                "the tree",
                "a snapshot is being made, whose files are not known yet: try again later",
            )
        return _Step(Capability(DirectoryCid.of(ref)), path) if is_snapshot else None


def _label(link: bytes) -> str:
    return link[:LABEL_BYTES].hex()
