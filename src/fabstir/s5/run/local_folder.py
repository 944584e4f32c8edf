"""A folder of this machine that may be somebody else's work: read by handles, never by names again.

What was a file when it was listed may be a link to a secret, or a pipe that nobody writes to, when
it is opened. So every name is opened below the handle of the folder it was found in, without
following links and without waiting, and what was opened is looked at before it is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from anyio import to_thread

from fabstir.primitives.errors import NotFound, PathRefused, StorageError
from fabstir.s5.formats.limits import MAX_PATH_DEPTH

READ_BYTES: Final = 1 << 20

ICON: Final = "Icon\r"
"""What macOS keeps a folder's own icon in: empty but for a fork that only it reads, and with a name
that no other system takes."""

_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_Place = tuple[str, ...]
"""Names from the folder down."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file below a folder.

    Attributes:
        path: by which it was found, from the folder, names joined by "/".
        place: where it is: elsewhere in the folder, if a link led to it.
    """

    path: str
    place: _Place


@dataclass(slots=True)
class Listing:
    """What is below a folder.

    Attributes:
        left_out: paths of what is no file, leads out of the folder, or only macOS can use.
    """

    files: list[LocalFile] = field(default_factory=list[LocalFile])
    left_out: list[str] = field(default_factory=list[str])


class LocalFolder:
    """An open folder. Made by `open_folder`."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle
        self._real = Path(os.path.realpath(path))

    def list(self) -> Listing:
        """All files below it, by path.

        Links are followed to files below the same folder only: what lies elsewhere was not named,
        and may be a secret. Links to folders, to nothing and out of it are left out, as pipes are.

        Raises:
            StorageError: a folder cannot be read: what it holds must not be missing unnoticed.
            PathRefused: it is deeper than any path may be.
        """
        listing = Listing()
        todo: list[_Place] = [()]
        while todo:
            place = todo.pop()
            if len(place) >= MAX_PATH_DEPTH:
                raise PathRefused(f"{self._shown(place)} is deeper than {MAX_PATH_DEPTH} folders")
            with (
                _named(self._shown(place)),
                self._opened(place) as handle,
                os.scandir(handle) as entries,
            ):
                for entry in entries:
                    self._sort(place, entry, listing, todo)
        listing.files.sort(key=lambda file: file.path)
        listing.left_out.sort()
        return listing

    async def read(self, file: LocalFile) -> AsyncGenerator[bytes]:
        """A file's content in pieces.

        Raises:
            StorageError: it cannot be read, or is no file any more.
        """
        shown = self._shown(tuple(file.path.split("/")))
        with _named(shown):
            handle = await to_thread.run_sync(self._open_file, file.place, shown)
        try:
            while True:
                with _named(shown):
                    piece = await to_thread.run_sync(os.read, handle, READ_BYTES)
                if not piece:
                    return
                yield piece
        finally:
            os.close(handle)

    def _sort(
        self, above: _Place, entry: os.DirEntry[str], listing: Listing, todo: list[_Place]
    ) -> None:
        place = (*above, entry.name)
        path = "/".join(place)
        if entry.is_dir(follow_symlinks=False):
            todo.append(place)
        elif entry.is_file(follow_symlinks=False) and entry.name != ICON:
            listing.files.append(LocalFile(path, place))
        elif entry.is_symlink() and (target := self._target(place)) is not None:
            listing.files.append(LocalFile(path, target))
        else:
            listing.left_out.append(path)

    def _target(self, link: _Place) -> _Place | None:
        """Where in this folder the file is that a link leads to; None: it leads to no such file."""
        try:
            real = Path(os.path.realpath(self._real.joinpath(*link), strict=True))
            place = real.relative_to(self._real).parts
            os.close(self._open_file(place, str(real)))
        except (OSError, ValueError, StorageError):
            # Whoever made the folder chose this text: too long, a circle, a place of its own kind.
            return None
        return place

    def _open_file(self, place: _Place, shown: str) -> int:
        if not place:
            raise StorageError(f"{shown} is a folder")
        with self._opened(place[:-1]) as folder:
            handle = os.open(place[-1], _FILE_FLAGS, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise StorageError(f"{shown} is no file any more: nothing was stored")
        return handle

    @contextmanager
    def _opened(self, place: _Place) -> Generator[int]:
        """A folder below this one. Its handle is closed when the block is left."""
        handle = os.dup(self._handle)
        try:
            for name in place:
                below = os.open(name, _FOLDER_FLAGS, dir_fd=handle)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    def _shown(self, place: _Place) -> str:
        return str(self._path.joinpath(*place))


@contextmanager
def open_folder(path: Path) -> Generator[LocalFolder]:
    """Hold a folder open for the length of the block. It blocks for a moment.

    Raises:
        NotFound: there is none.
        StorageError: it cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"no such folder: {path}") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"{str(path)[:200]!a} cannot be read: {_reason(error)}") from error
    try:
        yield LocalFolder(path, handle)
    finally:
        os.close(handle)


@contextmanager
def _named(shown: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{shown} cannot be read: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
