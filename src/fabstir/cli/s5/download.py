"""From a node into a file: a part file beside it, gone on with after an end, put in place whole.

The part file's name has the end of the CID in it, so that what is gone on with is the same
content. Each piece is verified where it is read; the whole once more here, because the part that
was there before may have been damaged by a power cut.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from anyio import to_thread

from fabstir.cli.output import writing_out
from fabstir.cli.progress import Advance
from fabstir.cli.s5.access import Access
from fabstir.crypto import Blake3
from fabstir.db.files import install, is_full, open_own
from fabstir.primitives.errors import CorruptBlob, StorageError, StorageFull
from fabstir.s5.run.targets import S5Target

_READ_BYTES = 1 << 20
_CID_CHARS = 16
"""Of a CID that a part file is named by: 80 bits of its hash and size."""

_MAX_FILE_NAME_BYTES = 255
"""Of nearly every file system (NAME_MAX); names in S5 may be longer."""

_SHOWN_CHARS = 80


async def stream_to_stdout(pieces: AsyncGenerator[bytes], advance: Advance, total: int) -> None:
    """Write everything to standard output.

    Raises:
        FabstirError: it cannot be written, or its reader has left.
    """
    done = 0
    async with aclosing(pieces):
        async for piece in pieces:
            await to_thread.run_sync(_write_out, piece)
            done += len(piece)
            advance(done, total)


def _write_out(piece: bytes) -> None:
    with writing_out():
        sys.stdout.buffer.write(piece)


async def download(
    node: Access, target: S5Target, found: Mapping[str, Any], file: Path, advance: Advance
) -> None:
    """Fetch a target into `file`, replacing what is there at the end.

    Args:
        found: what the command `find` says of it.

    Raises:
        StorageError: also where the file cannot be written; the part file stays.
    """
    total: int = found["size"]
    with _writing(file):
        file = await to_thread.run_sync(_resolve, file)
        part = _part_of(file, found["cid"])
        with await to_thread.run_sync(_open_part, part) as out:
            hasher = await to_thread.run_sync(_hash_part, out, total)
            done = out.tell()
            advance(done, total)
            if done < total:
                async with aclosing(node.read(target, found, done)) as pieces:
                    async for piece in pieces:
                        hasher.update(piece)
                        await to_thread.run_sync(out.write, piece)
                        done += len(piece)
                        advance(done, total)
        await to_thread.run_sync(_put_in_place, part, file, found, done, hasher.digest())


def _resolve(file: Path) -> Path:
    """Where to put the content: what a link leads to gets it, and not the link (/dev/stdout).

    Raises:
        StorageError: no file can be there.
    """
    if file.is_dir():
        raise StorageError(f"{file} is a folder: name a file with -o")
    if file.exists() and not file.is_file():
        # Putting a file in the place of /dev/null would take it from the whole machine.
        raise StorageError(f"{file} is a pipe or a device: -o - writes to standard output")
    return Path(os.path.realpath(file))


def _part_of(file: Path, cid: str) -> Path:
    """Beside the file. Of a long name only its beginning: the CID's end says what it is of."""
    ending = f".{cid[-_CID_CHARS:]}.part"
    name = os.fsencode(file.name)[: _MAX_FILE_NAME_BYTES - len(ending) - 1]
    return file.with_name(f".{os.fsdecode(name)}{ending}")


def _open_part(part: Path) -> BinaryIO:
    """Open what an earlier try left, or begin. The folder may be one that others write to, too.

    Raises:
        StorageError: somebody else laid something there: a link would lead what is written to
            another file, and a file of theirs could be changed after it was verified.
    """
    try:
        handle = open_own(part, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.EMLINK}:
            raise _planted(part) from error
        raise
    if os.fstat(handle).st_uid != os.geteuid():
        os.close(handle)
        raise _planted(part)
    return os.fdopen(handle, "ab+")


def _planted(part: Path) -> StorageError:
    return StorageError(
        f"{part} is a link, or no file of yours, where an unfinished download would be: remove it, "
        "or name another folder with -o"
    )


@contextmanager
def _writing(file: Path) -> Generator[None]:
    shown = str(file)
    shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise StorageError(f"{shown} is too long for this disk: name a file with -o") from error
        if is_full(error):
            raise StorageFull(f"no room left for {shown}: free some, and run it again") from error
        raise StorageError(f"{shown} cannot be written: {error.strerror}") from error


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
    # The hash decides where there is one: of a blob, an identifier may name a wrong size.
    expected: str | None = found["blake3"]
    is_right = num_bytes == found["size"] if expected is None else digest.hex() == expected
    if not is_right:
        part.unlink()
        raise CorruptBlob(found["cid"], str(part))
    install(part, file)
