"""Deleting directories so that no acknowledged write into them is lost on the way.

A directory that is deleted gets a last registry entry without data, published only if nothing was
written to it meanwhile; then its name goes. Whoever comes with a write between the two finds the
empty entry, and makes a new directory under the name. Directories below are ended first, so that
nothing that was deleted can come back under an old key.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import (
    PathRefused,
    RemoteProtocolError,
    StorageError,
    WriteConflict,
)
from fabstir.protocol.s5.directory import DirRef, FileRef
from fabstir.protocol.s5.directory_cid import Capability
from fabstir.protocol.s5.limits import MAX_PATH_DEPTH
from fabstir.storage.fs.authorship import Authorship
from fabstir.storage.fs.commits import MAX_ATTEMPTS
from fabstir.storage.fs.directories import FILE_KEY, Directories, Loaded, LostRace, State
from fabstir.storage.fs.keys import MOUNTED, MOVING, child_of
from fabstir.storage.fs.ownership import own_blobs
from fabstir.storage.fs.paths import Segments, format_path

_LOG = logging.getLogger(__name__)

_RELEASED_AT_ONCE = 512


class Removal:
    """Ends directories."""

    def __init__(
        self, directories: Directories, may_release: Callable[[], Awaitable[bool]]
    ) -> None:
        self._directories = directories
        self._may_release = may_release

    async def end(
        self, parent: Capability, segments: Segments, ref: DirRef, *, is_recursive: bool
    ) -> None:
        """End a directory; its name stays.

        One that this tree only links to (mounted, fixed, or in the middle of a move) keeps its
        content.

        Raises:
            PathRefused: it is not empty, and `is_recursive` is off.
            WriteConflict: other writers are always faster.
        """
        child = child_of(parent, segments[-1], ref, self._directories.crypto)
        if child.write_key is None or MOVING in ref.extra or MOUNTED in ref.extra:
            return
        if len(segments) > MAX_PATH_DEPTH:
            raise PathRefused(f"{format_path(segments[:3])!a} goes deeper than {MAX_PATH_DEPTH}")
        path = format_path(segments)
        for _ in range(MAX_ATTEMPTS):
            loaded = await self._directories.load(child, path)
            if loaded.state is not State.PRESENT:
                return
            await self._end_below(loaded, segments, is_recursive=is_recursive)
            try:
                await self._directories.publish(child, loaded.revision + 1, None)
            except LostRace:
                continue
            try:
                await self._release(loaded)
            except (StorageError, RemoteProtocolError) as exc:
                # It is deleted, durably; what cannot be read now is left to a vacuum.
                _LOG.warning("old blobs stay until the next vacuum", extra={"reason": str(exc)})
            return
        raise WriteConflict(path, f"{MAX_ATTEMPTS} times somebody wrote into it meanwhile")

    async def _end_below(self, loaded: Loaded, segments: Segments, *, is_recursive: bool) -> None:
        async for key, entry in self._directories.entries(loaded, None):
            if not is_recursive:
                raise PathRefused(
                    f"{loaded.path!a} is a directory that is not empty: delete all that is in it, "
                    "too (`rm -r`, ?recursive=true)"
                )
            if isinstance(entry, DirRef):
                below = (*segments, key[len(FILE_KEY) :])
                await self.end(loaded.capability, below, entry, is_recursive=True)

    async def _release(self, loaded: Loaded) -> None:
        if not await self._may_release():
            return
        authorship = self._directories.authorship(loaded)
        is_sealed = loaded.capability.cid.encryption_key is not None
        if authorship is not Authorship.OURS:
            # What others named in it may be somebody's else; the directory itself is ours, or not.
            if authorship is Authorship.MIXED and is_sealed and loaded.blob is not None:
                await self._directories.release([loaded.blob])
            return
        nodes: list[Multihash] = []
        dropped: list[Multihash] = []
        async for _, entry in self._directories.entries(loaded, None, on_node=nodes.append):
            if isinstance(entry, FileRef):
                dropped.extend(own_blobs(entry))
            if len(dropped) >= _RELEASED_AT_ONCE:
                await self._directories.release(dropped)
                dropped.clear()
        if is_sealed and loaded.blob is not None:
            # The directory last: while it is there, what is left below it can still be found.
            dropped += [*nodes, loaded.blob]
        await self._directories.release(dropped)
