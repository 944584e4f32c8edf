"""From a node into a file: a part file beside it, gone on with after an end, put in place whole.

The part file's name has the end of the CID in it, so that what is gone on with is the same
content. Each piece is verified where it is read; the whole once more here, because the part that
was there before may have been damaged by a power cut.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from anyio import to_thread

from fabstir.cli.s5_access import Access
from fabstir.cli.s5_progress import Advance
from fabstir.crypto import Blake3
from fabstir.db.files import install
from fabstir.primitives.errors import CorruptBlob, StorageError, StorageFull

_READ_BYTES = 1 << 20
_CID_CHARS = 16
"""Of a CID that a part file is named by: 80 bits of its hash and size."""


async def stream_to(
    out: BinaryIO, pieces: AsyncIterator[bytes], advance: Advance, total: int
) -> None:
    """Write everything to an open file."""
    done = 0
    async for piece in pieces:
        await to_thread.run_sync(out.write, piece)
        done += len(piece)
        advance(done, total)
    await to_thread.run_sync(out.flush)


async def download(node: Access, found: Mapping[str, Any], file: Path, advance: Advance) -> None:
    """Fetch what the command `find` found into `file`, replacing what is there at the end.

    Raises:
        StorageError: also where the file cannot be written; the part file stays.
    """
    if await to_thread.run_sync(file.is_dir):
        raise StorageError(f"{file} is a folder: name a file with -o")
    part = file.with_name(f".{file.name}.{found['cid'][-_CID_CHARS:]}.part")
    total: int = found["size"]
    try:
        with part.open("ab+") as out:
            hasher = await to_thread.run_sync(_hash_part, out, total)
            done = out.tell()
            advance(done, total)
            if done < total:
                async for piece in node.read(found, done):
                    hasher.update(piece)
                    await to_thread.run_sync(out.write, piece)
                    done += len(piece)
                    advance(done, total)
        await to_thread.run_sync(_put_in_place, part, file, found, done, hasher.digest())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull(f"no room left for {file}: free some, and run it again") from error
        raise StorageError(f"{file} cannot be written: {error.strerror}") from error


def _hash_part(out: BinaryIO, total: int) -> Blake3:
    """Hash what an earlier try left; start anew where that is more than there may be."""
    out.seek(0, os.SEEK_END)
    if out.tell() > total:
        out.truncate(0)
    out.seek(0)
    hasher = Blake3()
    while data := out.read(_READ_BYTES):
        hasher.update(data)
    return hasher


def _put_in_place(
    part: Path, file: Path, found: Mapping[str, Any], num_bytes: int, digest: bytes
) -> None:
    expected: str | None = found["blake3"]
    if num_bytes != found["size"] or (expected is not None and digest.hex() != expected):
        part.unlink()
        raise CorruptBlob(found["cid"], str(part))
    install(part, file)
