"""The files of a store, as functions for worker threads: nothing here awaits.

Layout below the store's folder:

    store.sqlite        rows of everything, and the bytes of blobs below 64 KiB
    blobs/ab/abcd...    a larger blob; named by its BLAKE3 and eight random digits
    tmp/                what is being written

The random digits make every writing of a blob another file: a blob that is collected and stored
anew at the same time never loses the new file to the removal of the old one.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fabstir.db.s5.blobs import Content
from fabstir.primitives.errors import StorageError, StorageFull
from fabstir.storage.store._hashing import BlobHasher

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def disk_errors(what: Path) -> Generator[None]:
    """Name what the disk refuses.

    Raises:
        StorageFull: no room, a quota of the system, or a file longer than it allows.
        StorageError: any other failure of the disk.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StorageFull(
                f"{what} has no room for the blob ({exc.strerror}): nothing of it is kept; free "
                "disk space, or unpin and collect what is no longer needed"
            ) from exc
        raise StorageError(
            f"{what} cannot be used: {exc.strerror or exc}; see whether the disk is failing, and "
            "who owns the folder"
        ) from exc


class StoreFolder:
    """Paths and whole-file operations below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.incoming = root / "tmp"

    def make(self) -> None:
        """Make the folders that are not there.

        Raises:
            StorageError: they cannot be made.
        """
        with disk_errors(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.blobs.mkdir(exist_ok=True)
            self.incoming.mkdir(exist_ok=True)
            sync_folder(self.root)

    def tidy(self) -> None:
        """Remove what a kill left half-written. Only for who has the store alone.

        Raises:
            StorageError: it cannot be removed.
        """
        with disk_errors(self.incoming):
            for file in self.incoming.iterdir():
                file.unlink()

    def new_name(self, digest: bytes) -> str:
        """A name for a file that no other one has, relative to the folder."""
        name = digest.hex()
        return f"blobs/{name[:2]}/{name}.{secrets.token_hex(4)}"

    def install(self, temporary: Path, name: str) -> None:
        """Give a complete, flushed file its name, durably."""
        target = self.root / name
        with disk_errors(target.parent):
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                sync_folder(self.blobs)
            temporary.replace(target)
            sync_folder(target.parent)

    def remove(self, names: Iterable[str]) -> None:
        """Unlink; those that are gone already are no error."""
        for name in names:
            with disk_errors(self.root / name):
                (self.root / name).unlink(missing_ok=True)

    def has(self, name: str, size: int) -> bool:
        """Whether the file is there, with the size it should have."""
        try:
            return (self.root / name).stat().st_size == size
        except OSError:
            return False

    def shard(self, shard: str) -> list[str]:
        """The names in one of the 256 folders of blobs."""
        try:
            return sorted(f"blobs/{shard}/{file.name}" for file in (self.blobs / shard).iterdir())
        except FileNotFoundError:
            return []


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class IncomingFile:
    """A blob that is being written, under a temporary name."""

    def __init__(self, folder: StoreFolder, *, has_sha256: bool) -> None:
        self.path = folder.incoming / secrets.token_hex(16)
        self._hasher = BlobHasher(has_sha256=has_sha256)
        with disk_errors(self.path.parent):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, block: Sequence[memoryview]) -> None:
        """Write and hash the next pieces.

        Raises:
            StorageFull, StorageError: as `disk_errors`; `discard` it then.
        """
        for piece in block:
            rest = piece
            with disk_errors(self.path.parent):
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            self._hasher.update(piece)

    def finish(self) -> Content:
        """Flush to the disk and close.

        Raises:
            StorageFull, StorageError: the disk only now says so; `discard` it then.
        """
        with disk_errors(self.path.parent):
            os.fdatasync(self._descriptor)
        self._close()
        return Content(
            digest=self._hasher.digest,
            size=self._hasher.size,
            sha256=self._hasher.sha256,
            groups=self._hasher.groups,
        )

    def discard(self) -> None:
        """Close and remove; does nothing to a file that was installed."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
