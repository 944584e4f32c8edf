"""Reading a tree by paths, with a key that reads it or one that also writes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from fabstir.primitives.errors import (
    AccessDenied,
    NotFound,
    PathRefused,
    RemoteProtocolError,
    StorageError,
)
from fabstir.s5.formats.directory import DirectoryEntry, DirRef, FileRef
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.limits import MAX_PATH_DEPTH
from fabstir.s5.fs.changes import NameSlot
from fabstir.s5.fs.contents import read_content
from fabstir.s5.fs.cursors import decode_cursor, encode_cursor
from fabstir.s5.fs.directories import FILE_KEY, Directories, Loaded, State
from fabstir.s5.fs.keys import child_of
from fabstir.s5.fs.paths import Segments, format_path, is_name, parse_path
from fabstir.s5.fs.reading import PAGE_BYTES, Allowance
from fabstir.s5.fs.values import (
    DirectoryInfo,
    FileInfo,
    Info,
    Page,
    cid_of,
    directory_info,
    file_info,
    versions_of,
)

MAX_PAGE_ENTRIES: Final = 10_000
"""Most entries of one page of a list: some 5 MB of objects."""


class ReadOnlyTree:
    """What a capability shows: the directory itself and everything below it.

    Every method raises what the ports raise (NotFound, CorruptBlob, PortalError), PathRefused for
    a path that is not allowed, AccessDenied where a key is missing or wrong, PortalLied where the
    registry goes back in time, and RemoteProtocolError where bytes are no directory.
    """

    def __init__(self, directories: Directories, root: Capability) -> None:
        self._directories = directories
        self._root = root

    async def stat(self, path: str) -> Info:
        """Describe a file or directory. Raises NotFound."""
        segments = parse_path(path, is_new=False)
        if not segments:
            await self._directory(())
            return self._root_info()
        slot = await self._slot(segments)
        if slot.file is not None:
            return file_info(format_path(segments), slot.file)
        if slot.directory is not None:
            return directory_info(format_path(segments), slot.directory)
        raise _not_found(segments)

    async def exists(self, path: str) -> bool:
        """Whether there is a file or directory."""
        try:
            await self.stat(path)
        except NotFound:
            return False
        return True

    async def get(self, path: str, max_bytes: int, *, version: str | None = None) -> bytes:
        """A whole file.

        Args:
            version: the CID of the newest or an older version; None: the newest.

        Raises:
            NotFound: no such file, or version.
            StorageError: it is longer than `max_bytes`.
        """
        file = await self._file(path, version)
        if file.size > max_bytes:
            raise StorageError(
                f"{path!a} has {file.size} bytes and at most {max_bytes} were asked for: "
                "read it in ranges"
            )
        async with aclosing(self._content(file, 0, file.size)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def read(
        self, path: str, start: int = 0, end: int | None = None, *, version: str | None = None
    ) -> AsyncGenerator[bytes]:
        """A range of a file in pieces; only the chunks that hold it are fetched and opened.

        Args:
            start, end: bytes, as in a slice: `end` is not included, and what lies beyond the
                file's end is cut off.
            version: as in `get`.

        Raises:
            NotFound: no such file, or version; from the first step of the iteration.
        """
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"bytes {start} to {end} are no range")
        file = await self._file(path, version)
        last = file.size if end is None else min(end, file.size)
        async with aclosing(self._content(file, min(start, last), last)) as pieces:
            async for piece in pieces:
                yield piece

    async def list(self, path: str = "", *, cursor: str | None = None, limit: int = 1000) -> Page:
        """A page of what is in a directory.

        Flat directories are in the order of names by code point; those of 1,000 entries and more
        in that of their HAMT, by the hash of kind and name. What is added or removed between two
        pages neither repeats nor hides anything else. A page with a cursor may have fewer entries
        than `limit`, or none: nodes that are longer than any that S5 writes end it early.

        Args:
            cursor: of the page before.
            limit: 1 to MAX_PAGE_ENTRIES.

        Raises:
            NotFound: no such directory.
            PathRefused: the cursor is of another directory's order: begin again.
        """
        if not 1 <= limit <= MAX_PAGE_ENTRIES:
            raise ValueError(f"a page has 1 to {MAX_PAGE_ENTRIES} entries, not {limit}")
        segments = parse_path(path, is_new=False)
        loaded = await self._directory(segments)
        is_sharded = loaded.directory.sharding is not None
        after = None if cursor is None else decode_cursor(cursor, is_sharded=is_sharded)
        found: list[Info] = []
        num_refused = loaded.directory.num_nameless if cursor is None else 0
        next_cursor: str | None = None
        allowance = Allowance(2 * PAGE_BYTES)
        async with aclosing(self._entries(loaded, segments, after, allowance)) as entries:
            async for key, info in entries:
                if info is None:
                    num_refused += 1
                else:
                    found.append(info)
                if len(found) == limit or allowance.num_bytes >= PAGE_BYTES:
                    next_cursor = encode_cursor(key, is_sharded=is_sharded)
                    break
        return Page(entries=tuple(found), cursor=next_cursor, num_refused=num_refused)

    async def walk(self, path: str = "") -> AsyncGenerator[Info]:
        """Everything below a directory, each directory before what is in it.

        A directory that leads back to one above it, or lies deeper than MAX_PATH_DEPTH, is named
        and not entered; so is one whose key was not given.

        Raises:
            NotFound: no such directory.
        """
        segments = parse_path(path, is_new=False)
        loaded = await self._directory(segments)
        async with aclosing(self._walk(loaded, segments, frozenset({_identity(loaded)}))) as all_:
            async for info in all_:
                yield info

    async def history(self, path: str) -> tuple[FileInfo, ...]:
        """A file's versions, newest first; each can be read by its CID. Raises NotFound."""
        file = await self._file(path, None)
        shown_path = format_path(parse_path(path, is_new=False))
        return tuple(file_info(shown_path, version) for version in versions_of(file))

    # -- for those who write ----------------------------------------------------------------------

    async def _directory(self, segments: Segments) -> Loaded:
        """The newest version of a directory. Raises NotFound."""
        return (await self._directories_on(segments))[-1]

    async def _directories_on(self, segments: Segments) -> list[Loaded]:
        """The newest versions of all directories on a path, the root first. Raises NotFound."""
        loaded = await self._directories.load(self._root, "")
        if loaded.state is State.MISSING and self._root.write_key is None:
            raise NotFound(
                "the directory of this capability was never written, or nobody that this node "
                "knows has it: name the node that shares it in s5.peers"
            )
        if loaded.state is State.DELETED:
            raise NotFound("the directory of this capability was deleted by its owner")
        path_to = [loaded]
        for depth, name in enumerate(segments, 1):
            path = format_path(segments[:depth])
            ref = (await self._directories.slot(loaded, name))[1].directory
            if ref is None:
                raise NotFound(f"there is no directory {path!a}")
            child = child_of(loaded.capability, name, ref, self._directories.crypto)
            loaded = (await self._directories.load(child, path)).live()
            path_to.append(loaded)
        return path_to

    async def _slot(self, segments: Segments) -> NameSlot:
        parent = await self._directory(segments[:-1])
        return (await self._directories.slot(parent, segments[-1]))[1]

    async def _file(self, path: str, version: str | None) -> FileRef:
        segments = parse_path(path, is_new=False)
        slot = await self._slot(segments) if segments else None
        if slot is None or (slot.directory is not None and slot.file is None):
            raise PathRefused(f"{path!a} is a directory: list it")
        if slot.file is None:
            raise _not_found(segments)
        for candidate in versions_of(slot.file):
            if version is None or cid_of(candidate) == version:
                return candidate
        raise NotFound(f"{path!a} has no version {version}")

    def _content(self, file: FileRef, start: int, end: int) -> AsyncGenerator[bytes]:
        return read_content(
            self._directories.blobs, file, start, end, crypto=self._directories.crypto
        )

    async def _entries(
        self, loaded: Loaded, segments: Segments, after: str | None, allowance: Allowance
    ) -> AsyncGenerator[tuple[str, Info | None]]:
        """Keys and what they name; None: a name that is not allowed here, or no entry at all."""
        async for key, entry in self._directories.entries(loaded, after, allowance=allowance):
            name = key[len(FILE_KEY) :]
            path = format_path((*segments, name))
            yield key, _described(path, entry) if is_name(name) else None

    async def _walk(
        self, loaded: Loaded, segments: Segments, above: frozenset[bytes]
    ) -> AsyncGenerator[Info]:
        async for key, entry in self._directories.entries(loaded, None):
            name = key[len(FILE_KEY) :]
            below = (*segments, name)
            info = _described(format_path(below), entry) if is_name(name) else None
            if info is None:
                continue
            yield info
            if isinstance(entry, FileRef):
                continue
            child = await self._enter(loaded, below, entry)
            if child is not None and _identity(child) not in above:
                inside = self._walk(child, below, above | {_identity(child)})
                async with aclosing(inside):
                    async for info in inside:
                        yield info

    async def _enter(self, parent: Loaded, segments: Segments, ref: DirRef) -> Loaded | None:
        if len(segments) >= MAX_PATH_DEPTH:
            return None
        child = child_of(parent.capability, segments[-1], ref, self._directories.crypto)
        try:
            loaded = await self._directories.load(child, format_path(segments))
        except AccessDenied:
            return None
        return loaded if loaded.state is State.PRESENT else None

    def _root_info(self) -> DirectoryInfo:
        cid = self._root.cid
        ref = DirRef(kind=cid.kind, link=cid.link, encryption_key=cid.encryption_key)
        return replace(directory_info("", ref))


def _described(path: str, entry: DirectoryEntry) -> Info | None:
    """None: it says of itself what cannot be, such as more bytes than any blob has."""
    if not isinstance(entry, FileRef):
        return directory_info(path, entry)
    try:
        return file_info(path, entry)
    except RemoteProtocolError:
        return None


def _identity(loaded: Loaded) -> bytes:
    return loaded.capability.cid.link


def _not_found(segments: Segments) -> NotFound:
    return NotFound(f"there is no file or directory {format_path(segments)!a}")
