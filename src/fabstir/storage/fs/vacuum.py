"""Finding what nothing names any more: what crashes left, dropped snapshots, shared blobs.

What is pinned and old enough is a candidate; everything that the tree, its history and its
snapshots name is taken off the list; the rest is released. Writers go on meanwhile: a file that is
moved from a directory that was not looked at yet into one that was is caught because the walk is
repeated for every directory whose revision changed, until none did.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from fabstir.db.s5.pins import Pin
from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import WriteConflict
from fabstir.protocol.s5.directory import DirRef, FileRef, LinkKind
from fabstir.protocol.s5.directory_cid import Capability, DirectoryCid
from fabstir.storage.fs.directories import FILE_KEY, Directories, State
from fabstir.storage.fs.keys import child_of
from fabstir.storage.fs.running import Running
from fabstir.storage.fs.snapshots import NOTHING, Snapshots, index_of
from fabstir.storage.fs.values import versions_of

_MAX_PASSES: Final = 32
"""How often directories that change during the walk are walked again."""

_RELEASED_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacuumed:
    """What a vacuum did.

    Attributes:
        num_pins: pins of this tree that were looked at.
        num_released, released_bytes: those that nothing named.
    """

    num_pins: int
    num_released: int
    released_bytes: int


@dataclass(slots=True)
class _Walk:
    """Directories that were walked, and what is done with each blob that one of them names."""

    keep: Callable[[Multihash], None]
    revisions: dict[bytes, tuple[Capability, str, int]] = field(
        default_factory=dict[bytes, tuple[Capability, str, int]]
    )
    fixed: set[bytes] = field(default_factory=set[bytes])


class Vacuum:
    """Releases what a tree no longer names."""

    def __init__(
        self,
        directories: Directories,
        root: Capability,
        snapshots: Snapshots,
        running: Running,
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
        candidates: dict[bytes, int] = {}
        num_pins = 0
        async for pin in pins:
            if pin.reason.startswith(f"{self._directories.label}:"):
                num_pins += 1
                if pin.created_at < before:
                    candidates[pin.blob.digest] = pin.blob.size

        def keep(blob: Multihash) -> None:
            candidates.pop(blob.digest, None)

        await self._settle(_Walk(keep=keep))
        for blob in self._running.stored():
            keep(blob)
        remaining = iter(candidates)
        while some := list(islice(remaining, _RELEASED_AT_ONCE)):
            await self._directories.release(Multihash(digest) for digest in some)
        return Vacuumed(
            num_pins=num_pins,
            num_released=len(candidates),
            released_bytes=sum(candidates.values()),
        )

    async def named(self) -> set[bytes]:
        """As `FileSystem.named`."""
        digests: set[bytes] = set()
        await self._settle(_Walk(keep=lambda blob: digests.add(blob.digest)))
        return digests

    async def _settle(self, walk: _Walk) -> None:
        """Walk until nothing changes under the walk."""
        index = index_of(self._root, self._directories.crypto)
        todo = [(self._root, ""), (index, "the index of snapshots")]
        for _ in range(_MAX_PASSES):
            for capability, path in todo:
                await self._visit(walk, capability, path, is_again=True)
            todo = [
                (capability, path)
                for capability, path, revision in walk.revisions.values()
                if (await self._directories.load(capability, path)).revision != revision
            ]
            if not todo:
                return
        raise WriteConflict("the tree", "writers were too busy for a vacuum: try again later")

    async def _visit(
        self, walk: _Walk, capability: Capability, path: str, *, is_again: bool = False
    ) -> None:
        """Keep everything that a directory names, and what is below it."""
        stack = [(capability, path, is_again)]
        while stack:
            capability, path, is_again = stack.pop()
            if self._is_known(walk, capability) and not is_again:
                continue
            below = await self._look(walk, capability, path)
            stack += [(child, where, False) for child, where in below]

    @staticmethod
    def _is_known(walk: _Walk, capability: Capability) -> bool:
        link = capability.cid.link
        is_fixed = capability.cid.kind is LinkKind.FIXED
        return link in walk.fixed if is_fixed else link in walk.revisions

    async def _look(
        self, walk: _Walk, capability: Capability, path: str
    ) -> list[tuple[Capability, str]]:
        """One directory; the capabilities of those in it that may hold pins of this tree."""
        loaded = await self._directories.load(capability, path)
        is_fixed = capability.cid.kind is LinkKind.FIXED
        if is_fixed:
            walk.fixed.add(capability.cid.link)
        else:
            walk.revisions[capability.cid.link] = capability, path, loaded.revision
        if loaded.state is not State.PRESENT:
            return []
        if loaded.blob is not None:
            walk.keep(loaded.blob)
        index = index_of(self._root, self._directories.crypto)
        below: list[tuple[Capability, str]] = []
        async for key, entry in self._directories.entries(loaded, None, on_node=walk.keep):
            name = key[len(FILE_KEY) :]
            if isinstance(entry, FileRef):
                for version in versions_of(entry):
                    walk.keep(Multihash(version.hash))
            elif (child := self._below(capability, name, entry, index)) is not None:
                below.append((child, f"{path}/{name}"))
        return below

    def _below(
        self, parent: Capability, name: str, ref: DirRef, index: Capability
    ) -> Capability | None:
        """What may hold pins of this tree: what it may write, and its snapshots.

        Raises:
            WriteConflict: one of them is being made.
        """
        if ref.kind is LinkKind.MUTABLE:
            child = child_of(parent, name, ref, self._directories.crypto)
            return None if child.write_key is None else child
        is_snapshot = parent.cid.kind is LinkKind.FIXED or parent.cid == index.cid
        if is_snapshot and ref.link == NOTHING:
            raise WriteConflict(
                "the tree",
                "a snapshot is being made, whose files are not known yet: try again later",
            )
        return Capability(DirectoryCid.of(ref)) if is_snapshot else None
