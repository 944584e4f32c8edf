"""Deleting directories without losing an acknowledged write into them.

A directory that is deleted gets a last registry entry without data, published only if nothing was
written to it meanwhile; then its name goes. Whoever comes with a write between the two finds the
empty entry, and makes a new directory under the name. Directories below are ended first, so that
nothing that was deleted can come back under an old key.

A name can always be taken away, whatever it leads to: a directory that cannot be read, that leads
back to one above it, or that has the last revision there is, is only not ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import (
    FabstirError,
    PathRefused,
    RemoteProtocolError,
    StorageError,
    WriteConflict,
)
from fabstir.s5.formats.directory import DirRef, FileRef
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.limits import MAX_PATH_DEPTH, MAX_REVISION
from fabstir.s5.fs.authorship import Authorship
from fabstir.s5.fs.commits import MAX_ATTEMPTS
from fabstir.s5.fs.directories import (
    FILE_KEY,
    UNREADABLE,
    Directories,
    Loaded,
    LostRace,
    State,
)
from fabstir.s5.fs.keys import MOUNTED, MOVING, child_of, derived_child
from fabstir.s5.fs.ownership import own_blobs
from fabstir.s5.fs.paths import Segments, format_path

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
        self,
        parent: Loaded,
        segments: Segments,
        ref: DirRef,
        *,
        above: frozenset[bytes],
        is_recursive: bool,
    ) -> None:
        """End a directory; its name stays.

        One that this tree only links to (mounted, fixed, or in the middle of a move) keeps its
        content.

        Args:
            above: links of all directories on the path, the parent's included.

        Raises:
            PathRefused: it is not empty, or cannot be read, and `is_recursive` is off.
            WriteConflict: other writers are always faster.
        """
        path = format_path(segments)
        try:
            child = child_of(parent.capability, segments[-1], ref, self._directories.crypto)
        except RemoteProtocolError as error:
            _leave(path, error, is_recursive=is_recursive)
            return
        if child.write_key is None or MOVING in ref.extra or MOUNTED in ref.extra:
            return
        if not self._is_in_its_place(parent, segments[-1], child, above):
            return
        for _ in range(MAX_ATTEMPTS):
            try:
                loaded = await self._directories.load(child, path)
            except UNREADABLE as error:
                _leave(path, error, is_recursive=is_recursive)
                await self._end_unread(child, path)
                return
            if loaded.state is not State.PRESENT or loaded.revision >= MAX_REVISION:
                return
            await self._end_below(loaded, segments, above, is_recursive=is_recursive)
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

    def _is_in_its_place(
        self, parent: Loaded, name: str, child: Capability, above: frozenset[bytes]
    ) -> bool:
        """Whether a directory certainly is this name's own, and may go with it.

        Who may write the parent can let a name in it lead to any directory whose key he knows: the
        parent itself, or another one in it. What we wrote leads where it should; of what others
        wrote, only the keys that come from the name do.
        """
        link = child.cid.link
        if link in above or len(above) > MAX_PATH_DEPTH:
            return False
        if self._directories.authorship(parent) is Authorship.OURS:
            return True
        derived = derived_child(parent.capability, name, self._directories.crypto)
        return derived is not None and derived.cid.link == link

    async def _end_below(
        self, loaded: Loaded, segments: Segments, above: frozenset[bytes], *, is_recursive: bool
    ) -> None:
        above |= {loaded.capability.cid.link}
        try:
            async for key, entry in self._directories.entries(loaded, None):
                if not is_recursive:
                    raise PathRefused(
                        f"{loaded.path!a} is a directory that is not empty: delete all that is in "
                        "it, too (`rm -r`, ?recursive=true)"
                    )
                if isinstance(entry, DirRef):
                    below = (*segments, key[len(FILE_KEY) :])
                    await self.end(loaded, below, entry, above=above, is_recursive=True)
        except UNREADABLE as error:
            _leave(loaded.path, error, is_recursive=is_recursive)

    async def _end_unread(self, child: Capability, path: str) -> None:
        """End what cannot be read, if that can be done."""
        try:
            revision = await self._directories.revision(child, path)
            if 0 < revision < MAX_REVISION:
                await self._directories.publish(child, revision + 1, None)
        except StorageError as error:
            _LOG.warning("a directory is unlinked, and not ended", extra={"reason": str(error)})

    async def _release(self, loaded: Loaded) -> None:
        if not await self._may_release():
            return
        authorship = self._directories.authorship(loaded)
        is_sealed = loaded.capability.cid.encryption_key is not None
        if authorship is not Authorship.OURS:
            # What others named in it may be anything; the directory's own blob is ours, or theirs.
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


def _leave(path: str, error: FabstirError, *, is_recursive: bool) -> None:
    """Go on without what cannot be read. Raises PathRefused: it may not be empty."""
    if not is_recursive:
        raise PathRefused(
            f"{path!a} cannot be read, so nobody knows what is in it: delete it with all that is "
            f"in it (`rm -r`, ?recursive=true); {error}"
        ) from error
    _LOG.warning(
        "a directory that cannot be read is deleted", extra={"path": path, "reason": str(error)}
    )
