"""A partly fetched blob: a sparse file, and beside it a record of the groups that it has.

    .NAME.DIGEST.part    the blob's bytes where they are verified, holes elsewhere; locked
    .NAME.DIGEST.obao    the blob's outboard, once some source gave a right one
    .NAME.DIGEST.done    the numbers of the groups that are in it, u32 little-endian, appended
    .NAME.DIGEST.whole   the blob's beginning, unverified, where no source had an outboard

None of these is believed when it is found: after a kill or a power cut the outboard is checked
against the blob's hash and every group against the outboard, so nothing here is ever flushed
before the end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import anyio
from anyio import to_thread

from fabstir.db.files import (
    append_to,
    install,
    is_full,
    make_private_folder,
    open_own,
    write_own,
)
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    RemoteProtocolError,
    StorageError,
    StorageFull,
    WriteConflict,
)
from fabstir.s5.portals.source import new_hasher
from fabstir.s5.verified.tree import GROUP_BYTES, GroupTree, group_extent, num_groups

RUN_GROUPS: Final = 16
"""Groups that are fetched and verified together: 4 MiB, where hashing is fastest."""

_READ_BYTES: Final = 4 << 20
_NUMBER_BYTES: Final = 4


class PartFile:
    """An open, locked part. Its methods block, and are for worker threads."""

    def __init__(self, target: Path, blob: BlobId) -> None:
        self.target = target
        self.blob = blob
        self._stem = f".{target.name}.{blob.digest.hex()[:16]}"
        self._path = self._beside("part")
        self._file = -1
        self._journal: BinaryIO | None = None

    def open(self) -> None:
        """Create or find it, and hold it alone.

        Raises:
            WriteConflict: another process fetches this blob to this place.
            StorageFull: the disk has no room for what is missing.
            StorageError: it cannot be written.
        """
        with self._named_errors():
            make_private_folder(self.target.parent)
            self._file = open_own(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            self._lock()
            self._require_room()
            os.ftruncate(self._file, self.blob.size)
            self._journal = append_to(self._beside("done"))
            size = self._journal.tell()
            self._journal.truncate(size - size % _NUMBER_BYTES)

    def close(self) -> None:
        """Let go of it."""
        if self._journal is not None:
            self._journal.close()
        if self._file >= 0:
            os.close(self._file)

    def load_tree(self) -> GroupTree | None:
        """The tree that an earlier try saved, verified; None: there is none, or a damaged one."""
        try:
            return GroupTree.decode(self.blob, self._beside("obao").read_bytes())
        except (OSError, RemoteProtocolError):
            return None

    def save_tree(self, tree: GroupTree) -> None:
        """Keep the outboard for the next try."""
        with self._named_errors():
            write_own(self._beside("obao"), tree.encode())

    def sound_groups(self, tree: GroupTree, on_checked: Callable[[int], None]) -> list[int]:
        """Which groups are in it; every byte is read and hashed again.

        Args:
            on_checked: gets the bytes of each run of groups that was sound.
        """
        sound: list[int] = []
        for first, count in _runs(self._noted()):
            start, end = group_extent(self.blob.size, first, count)
            with self._named_errors():
                data = os.pread(self._file, end - start, start)
            # A file that was cut off is whole again by `open`, with zeros.
            wrong = set(tree.wrong_groups(first, data))
            sound += [group for group in range(first, first + count) if group not in wrong]
            on_checked(end - start)
        return sound

    def accept(self, tree: GroupTree, first: int, data: bytes | memoryview) -> list[int]:
        """Verify whole groups and keep the right ones.

        Returns:
            Which of them are wrong.
        """
        wrong = tree.wrong_groups(first, data)
        view, count = memoryview(data), -(-len(data) // GROUP_BYTES)
        right = [group for group in range(first, first + count) if group not in set(wrong)]
        with self._named_errors():
            for start, length in _runs(right):
                offset = (start - first) * GROUP_BYTES
                self._write(view[offset : offset + length * GROUP_BYTES], start * GROUP_BYTES)
            # After the bytes: what is noted was written, as far as a kill goes.
            assert self._journal is not None
            self._journal.write(_encode(right))
            self._journal.flush()
        return wrong

    def whole_size(self) -> int:
        """How much of the blob's beginning is in the unverified file."""
        with suppress(FileNotFoundError):
            return self._beside("whole").stat().st_size
        return 0

    def append_whole(self, data: bytes) -> None:
        """Add to the unverified file."""
        with self._named_errors(), append_to(self._beside("whole"), 0o666) as file:
            file.write(data)

    def discard_whole(self) -> None:
        """Forget the unverified file."""
        self._beside("whole").unlink(missing_ok=True)

    def adopt_whole(self) -> bool:
        """If the unverified file is the blob, put it in place.

        Returns:
            Whether it was.
        """
        path = self._beside("whole")
        if not self._is_blob(path):
            return False
        self._install(path)
        return True

    def finish(self) -> bool:
        """Hash the whole file once more, flush it and put it in place, atomically.

        Returns:
            False: what is on disk is not what was written; everything is discarded.
        """
        if not self._is_blob(self._path):
            self.discard()
            return False
        self._install(self._path)
        return True

    def discard(self) -> None:
        """Forget what was fetched."""
        with self._named_errors():
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, self.blob.size)
            write_own(self._beside("done"), b"")

    def _beside(self, suffix: str) -> Path:
        return self.target.with_name(f"{self._stem}.{suffix}")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_ours = False
        else:
            # It may have become the finished file between our open and our lock.
            with suppress(FileNotFoundError):
                is_ours = self._path.stat().st_ino == os.fstat(self._file).st_ino
                if is_ours:
                    return
        raise WriteConflict(
            str(self.target), "another process fetches this blob to this place; wait for it"
        )

    def _require_room(self) -> None:
        used = os.fstat(self._file).st_blocks * 512 + self.whole_size()
        filesystem = os.statvfs(self.target.parent)
        free = filesystem.f_bavail * filesystem.f_frsize
        if self.blob.size - used > free:
            raise StorageFull(
                f"{self.target.parent} has {free} bytes free and {self.blob.size - used} are still "
                "to be fetched: make room there, or choose another folder"
            )

    def _noted(self) -> list[int]:
        with self._named_errors():
            data = self._beside("done").read_bytes()
        numbers = {
            int.from_bytes(data[i : i + _NUMBER_BYTES], "little")
            for i in range(0, len(data), _NUMBER_BYTES)
        }
        return sorted(group for group in numbers if group < num_groups(self.blob.size))

    def _write(self, view: memoryview, offset: int) -> None:
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written

    def _is_blob(self, path: Path) -> bool:
        hasher, size = new_hasher(self.blob.type), 0
        with self._named_errors(), path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                hasher.update(block)
                size += len(block)
        return (hasher.digest(), size) == (self.blob.digest, self.blob.size)

    def _install(self, path: Path) -> None:
        with self._named_errors():
            install(path, self.target)
            for suffix in ("part", "obao", "done", "whole"):
                self._beside(suffix).unlink(missing_ok=True)

    @contextmanager
    def _named_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            if is_full(exc):
                raise StorageFull(
                    f"the disk of {self.target.parent} is full: make room, and try again, which "
                    "resumes"
                ) from exc
            raise StorageError(
                f"{self.target} cannot be fetched to: {exc.strerror}; choose another place"
            ) from exc


def _encode(groups: list[int]) -> bytes:
    return b"".join(group.to_bytes(_NUMBER_BYTES, "little") for group in groups)


def _runs(groups: list[int]) -> Generator[tuple[int, int]]:
    """Rising numbers as (first, count) of neighbours, RUN_GROUPS at most together."""
    first = count = 0
    for group in groups:
        if count and group == first + count and count < RUN_GROUPS:
            count += 1
        else:
            if count:
                yield first, count
            first, count = group, 1
    if count:
        yield first, count


@asynccontextmanager
async def open_part(target: Path, blob: BlobId) -> AsyncGenerator[PartFile]:
    """Hold the part of a blob for the length of the block.

    Raises:
        WriteConflict, StorageFull, StorageError: as `PartFile.open`.
    """
    part = PartFile(target, blob)
    try:
        await to_thread.run_sync(part.open)
        yield part
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(part.close)
