"""The files of a store, as functions for worker threads: nothing here awaits.

Layout below the store's folder:

    store.sqlite        rows of everything, and the bytes of blobs below 128 KiB
    blobs/ab/abcd...    a larger blob; named by its BLAKE3 and eight random digits
    tmp/                what is being written
    reserve             room that is given back to a full disk, so that blobs can be removed from it

The random digits make every writing of a blob another file: a blob that is collected and stored
anew at the same time never loses the new file to the removal of the old one.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fabstir.db.files import free_bytes, is_full, make_private_folder, open_own, sync_folder
from fabstir.db.reserve import Reserve
from fabstir.primitives.errors import ConfigError, StorageError, StorageFull
from fabstir.s5.store._hashing import BlobHasher
from fabstir.s5.tables.blobs import Content

_LOG = logging.getLogger(__name__)

_WRITE_BYTES: Final = 1 << 20
"""Longest single write. Measured for 256 MiB: 0.14 s of processor time with 1 MiB, 0.70 s with
4 MiB, for which the kernel looks for larger pages and the processor's cache is too small."""

_FLUSH_BYTES: Final = 32 << 20
"""The disk is given so much at a time: some 20 ms of a good one."""

_HASH_AT_ONCE: Final = 4 << 20
"""Of a file that is taken over, read and then hashed by two threads."""

_HASH_BYTES: Final = 16 << 20
"""Read and hashed in one step of a worker thread, 5 ms: a cancelled take-over ends soon."""

_NO_LINK: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
"""Another file system, or one that gives a file one name only (FAT says EPERM)."""

_RESERVE_BYTES: Final = 4 << 20
"""For what SQLite writes while rows are taken out of it: 0.3 to 0.5 MB were measured for unpinning
256 blobs, 0.6 to 2.3 MB for collecting them."""

_BLOB_NAME: Final = re.compile(r"blobs/[0-9a-f]{2}/[0-9A-Za-z][0-9A-Za-z.]*")
_SHOWN_CHARS: Final = 100

_ADVICE: Final = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "name another place, or make the folder first"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "see who owns it"),
    errno.EROFS: "it is mounted for reading only",
}


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
        if is_full(exc):
            raise StorageFull(
                f"{what} has no room for the blob ({exc.strerror}, {free_bytes(what)} bytes are "
                "free): nothing of it is kept; free disk space, or unpin and collect what is no "
                "longer needed"
            ) from exc
        advice = _ADVICE.get(exc.errno or 0, "see whether the disk is failing")
        raise StorageError(f"{what} cannot be used: {exc.strerror or exc}; {advice}") from exc


class StoreFolder:
    """Paths and whole-file operations below one folder.

    Attributes:
        reserve: room that is given back to a full disk, so that blobs can be removed from it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.incoming = root / "tmp"
        self.database = root / "store.sqlite"
        self.reserve = Reserve(root / "reserve", _RESERVE_BYTES)

    def make(self) -> None:
        """Make the folders that are not there, and let nobody else into the outermost.

        Raises:
            StorageError: they cannot be made.
        """
        with disk_errors(self.root):
            make_private_folder(self.root)
            _close_to_others(self.root)
            make_private_folder(self.blobs)
            make_private_folder(self.incoming)
            sync_folder(self.root)

    def check_database(self) -> None:
        """See that no blobs are there whose names, pins and registry entries are lost.

        Raises:
            ConfigError: the database is gone. A new one would know none of them, and the first
                write would begin a second tree.
        """
        with disk_errors(self.blobs):
            if self.database.exists() and self.database.stat().st_size:
                return
            if any(file for shard in self.blobs.iterdir() for file in shard.iterdir()):
                raise ConfigError(
                    f"{self.database} is gone or empty, and {self.blobs} is not: only the database "
                    "knows what these files are. Restore it from a copy; or, to begin a new store "
                    "(`fabstir s5 import` then brings back an archive), move the folder away"
                )

    def tidy(self) -> None:
        """Remove what a kill left half-written. Only for who has the store alone.

        Raises:
            StorageError: it cannot be removed.
        """
        with disk_errors(self.incoming):
            for file in self.incoming.iterdir():
                if file.is_symlink() or not file.is_dir():  # folders are not ours
                    file.unlink()

    def require_reserve(self) -> None:
        """See that what is kept for removals is there, before anything is added.

        Raises:
            StorageFull: the disk has no room for it.
        """
        if not self.reserve.fill():
            raise StorageFull(
                f"the disk of {self.root} is full: {free_bytes(self.root)} bytes are free, and "
                f"{_RESERVE_BYTES} are kept so that something can be removed. Nothing was added; "
                "remove files and collect (`fabstir s5 rm`, `fabstir s5 gc --grace 0`), or free "
                "disk space"
            )

    def new_name(self, digest: bytes) -> str:
        """A name for a file that no other one has, relative to the folder."""
        name = digest.hex()
        return f"blobs/{name[:2]}/{name}.{secrets.token_hex(4)}"

    def path(self, name: str) -> Path:
        """Where the file of a row is.

        Raises:
            StorageError: the row's name leads elsewhere: somebody wrote in the database.
        """
        if not _BLOB_NAME.fullmatch(name):
            raise StorageError(
                f"{self.database} names the file {name[:_SHOWN_CHARS]!a}, which is none of this "
                "store: it was changed by something else. Put a sound copy of it in its place"
            )
        return self.root / name

    def remove(self, names: Iterable[str]) -> None:
        """Unlink; those that are gone already are no error, and those of no store are left."""
        for name in names:
            try:
                path = self.path(name)
            except StorageError as exc:
                _LOG.error("a file is not removed", extra={"reason": str(exc)})
                continue
            with disk_errors(path):
                try:
                    _unlink_below(path)
                except FileNotFoundError:
                    pass
                except (NotADirectoryError, IsADirectoryError) as exc:
                    _LOG.error(
                        "a file is not removed", extra={"path": str(path), "reason": exc.strerror}
                    )

    def has(self, name: str, size: int) -> bool:
        """Whether the file is there, with the size it should have."""
        try:
            found = self.path(name).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == size

    def shard(self, shard: str) -> list[str]:
        """The names in one of the 256 folders of blobs."""
        try:
            return sorted(f"blobs/{shard}/{file.name}" for file in (self.blobs / shard).iterdir())
        except FileNotFoundError:
            return []


def _unlink_below(path: Path) -> None:
    """Unlink in the very folder that is there, and not in one that a link leads to."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.unlink(path.name, dir_fd=folder)
    finally:
        os.close(folder)


def _close_to_others(folder: Path) -> None:
    """Who can write in it could put links in the place of our files, and who can read it sees what
    is stored and for whom."""
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == os.geteuid():
        folder.chmod(mode & 0o700)
    elif mode & 0o022:  # as volumes of containers are: there nobody else may be
        _LOG.warning("others can write in the store's folder", extra={"folder": str(folder)})


class OpenBlob:
    """A file that is read in worker threads. The first read opens it, so that a task which asyncio
    cancels while its thread works leaves no descriptor behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._is_closed = False

    def read(self, length: int, position: int) -> bytes:
        """Raises OSError: FileNotFoundError only from the first read."""
        with self._lock:
            if self._is_closed:
                raise StorageError("the blob was closed while it was read")
            if self._descriptor is None:
                self._descriptor = open_own(self._path, os.O_RDONLY)
            return os.pread(self._descriptor, length, position)

    def close(self) -> None:
        """Waits for the read that runs."""
        with self._lock:
            self._is_closed = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


class IncomingFile:
    """A blob that is being written, under a temporary name that its first piece makes; or a
    finished file of somebody's, with such a name as its second one.

    Its steps run in worker threads, and a task that asyncio itself cancels does not wait for its
    thread: so `discard` waits for the step that still runs, and no later one does anything.

    Attributes:
        is_installed: whether it has its last name; there is nothing to discard then.
    """

    def __init__(self, folder: StoreFolder, threads: Executor, *, has_sha256: bool) -> None:
        self._folder = folder
        self._threads = threads
        self._flushing: Future[None] | None = None
        self._num_unflushed = 0
        self._hasher = BlobHasher(has_sha256=has_sha256)
        self._path = folder.incoming / secrets.token_hex(16)
        self._lock = threading.Lock()
        self._is_discarded = False
        self._descriptor = -1
        self.is_installed = False

    def write(self, block: Sequence[memoryview]) -> None:
        """Write and hash the next pieces.

        Raises:
            StorageFull, StorageError: as `disk_errors`; `discard` it then.
        """
        with self._step():
            self._append(block)

    def link(self, file: Path) -> int | None:
        """Begin with all bytes of a finished file, which keeps its own name. Next: `hash_next`.

        Returns:
            Its length in bytes; None: the disk gives it no second name here. Copy it then.

        Raises:
            StorageError: it is not there, or no plain file.
        """
        with self._step(), disk_errors(file):
            try:
                os.link(file, self._path, follow_symlinks=False)
            except OSError as exc:
                if exc.errno in _NO_LINK:
                    return None
                raise
            if not stat.S_ISREG(self._path.lstat().st_mode):
                raise StorageError(f"{file} is no plain file: nothing of it is taken")
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
            os.fchmod(self._descriptor, 0o600)
            return os.fstat(self._descriptor).st_size

    def hash_next(self) -> bool:
        """Hash more of a linked file. Returns whether there was more."""
        with self._step(), disk_errors(self._path):
            end = self._hasher.size + _HASH_BYTES
            while self._hasher.size < end:
                pieces = self._read_next()
                with self._hasher.updating(pieces, self._threads):
                    pass
                if not pieces:
                    return False
            return True

    def _read_next(self) -> list[memoryview]:
        start = self._hasher.size
        positions = range(start, start + _HASH_AT_ONCE, _WRITE_BYTES)
        pieces = (os.pread(self._descriptor, _WRITE_BYTES, position) for position in positions)
        return [memoryview(piece) for piece in pieces if piece]

    def finish(self, last: Sequence[memoryview]) -> Content:
        """Write and hash the last pieces, flush to the disk and close.

        Raises:
            StorageFull, StorageError: the disk only now says so; `discard` it then.
        """
        with self._step():
            self._append(last)
            with disk_errors(self._folder.incoming):
                self._flush()
            self._close()
            return Content(
                digest=self._hasher.digest,
                size=self._hasher.size,
                sha256=self._hasher.sha256,
                groups=self._hasher.groups,
            )

    def install(self, name: str) -> None:
        """Give the finished file its name below the store's folder, durably."""
        target = self._folder.root / name
        with self._step(), disk_errors(target.parent):
            if not target.parent.exists():
                make_private_folder(target.parent)
                sync_folder(self._folder.blobs)
            self._path.replace(target)
            sync_folder(target.parent)
            self.is_installed = True

    def discard(self) -> None:
        """Close it, and remove what was not installed."""
        with self._lock:
            self._is_discarded = True
            self._close()
            self._path.unlink(missing_ok=True)

    def _append(self, block: Sequence[memoryview]) -> None:
        with disk_errors(self._folder.incoming):
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with self._hasher.updating(block, self._threads):
                for piece in block:
                    rest = piece
                    while rest:
                        written = os.write(self._descriptor, rest[:_WRITE_BYTES])
                        self._num_unflushed += written
                        rest = rest[written:]
            self._flush_meanwhile()

    def _flush_meanwhile(self) -> None:
        """Have the disk take what is written while more is: at the end little is left to wait for.

        Raises:
            OSError: it did not take what it was given before. It says so once.
        """
        if self._num_unflushed < _FLUSH_BYTES:
            return
        if self._flushing is not None:
            if not self._flushing.done():
                return
            self._flushing.result()
        self._num_unflushed = 0
        self._flushing = self._threads.submit(os.fdatasync, self._descriptor)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.result()
        os.fdatasync(self._descriptor)

    def _close(self) -> None:
        if self._flushing is not None:
            wait([self._flushing])
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @contextmanager
    def _step(self) -> Generator[None]:
        with self._lock:
            if self._is_discarded:
                raise StorageError("the blob was given up while it was written")
            yield
