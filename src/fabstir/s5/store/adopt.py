"""Blobs of versions before the store: a folder of files, each under the BLAKE3 of its bytes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from anyio import to_thread

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import HashMismatch
from fabstir.s5.store.store import BlobStore

_LOG = logging.getLogger(__name__)

_HALF_WRITTEN: Final = ".put-"


async def adopt_folder(store: BlobStore, folder: Path, owner: str) -> None:
    """Store and pin everything that `folder` has, and remove it; does nothing without one.

    A file whose bytes are not what its name says stays where it is, and is logged. Killed in the
    middle, the next call goes on.

    Raises:
        StorageFull, StorageError: what is not stored yet stays where it is.
    """
    if not await to_thread.run_sync(folder.is_dir):
        return
    for file in await to_thread.run_sync(_files, folder):
        if file.name.startswith(_HALF_WRITTEN):
            await to_thread.run_sync(file.unlink)
        elif name := _name(folder, file):  # else it is not ours
            try:
                await store.adopt(file, owner=owner, reason="earlier version", expected=name)
            except HashMismatch:
                _LOG.error("a blob of an earlier version has rotted", extra={"file": str(file)})
    await to_thread.run_sync(_remove_empty, folder)


def _files(folder: Path) -> list[Path]:
    # A link may lead anywhere: none is ours.
    files = (path for path in folder.rglob("*") if not path.is_symlink())
    return sorted(path for path in files if path.is_file())


def _name(folder: Path, file: Path) -> Multihash | None:
    """The hash that a file is named by."""
    try:
        return Multihash(bytes.fromhex("".join(file.relative_to(folder).parts)))
    except ValueError:
        return None


def _remove_empty(folder: Path) -> None:
    folders = [path for path in folder.rglob("*") if path.is_dir()]
    for path in [*sorted(folders, reverse=True), folder]:
        if not any(path.iterdir()):
            path.rmdir()
