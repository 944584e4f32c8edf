"""Model files on disk: their digest, their header, and which of them were verified before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from anyio import from_thread, to_thread

from fabstir.db.files import replace_private
from fabstir.models.gguf import read_gguf
from fabstir.primitives.errors import ModelHashMismatch, ModelMissing, ModelNotGguf
from fabstir.primitives.ids import Hash32, hash32, parse_hash32

OnProgress = Callable[[int, int], None]
"""(bytes done, bytes in total; 0 where the total is unknown)."""

_BLOCK_BYTES = 4 * 1024 * 1024


async def sha256_of(path: Path, on_progress: OnProgress | None = None) -> Hash32:
    """The digest of a file's bytes, computed in a worker thread.

    Raises:
        OSError: the file cannot be read.
    """
    return await to_thread.run_sync(_sha256_of, path, on_progress)


def _sha256_of(path: Path, on_progress: OnProgress | None) -> Hash32:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            from_thread.check_cancelled()
            if on_progress is not None:
                from_thread.run_sync(on_progress, file.tell(), total)
    return hash32(digest.digest())


async def verify_model(
    path: Path,
    sha256: Hash32,
    *,
    is_gguf: bool = True,
    on_progress: OnProgress | None = None,
) -> None:
    """Hash the whole file and look at its header.

    Args:
        is_gguf: it is to be loaded by llama.cpp; False: another program reads its header.

    Raises:
        ModelMissing: there is no such file, or it cannot be read.
        ModelHashMismatch: its bytes are others.
        ModelNotGguf: its bytes are the expected ones, and not a model that llama.cpp loads.
    """
    try:
        actual = await sha256_of(path, on_progress)
        if actual != sha256:
            raise ModelHashMismatch(str(path), sha256, actual)
        if is_gguf:
            await check_header(path)
    except OSError as exc:
        raise ModelMissing(
            f"the model {path} cannot be read ({exc.strerror}): put its file there, or correct "
            "model.path"
        ) from exc


async def check_header(path: Path) -> None:
    """Look whether llama.cpp loads files of this kind, before it sees this one.

    Raises:
        ModelNotGguf: it does not.
        GgufRefused: it should not, because the header is damaged or hostile.
        OSError: the file cannot be read.
    """
    await to_thread.run_sync(_check_header, path)


def _check_header(path: Path) -> None:
    if (num_parts := read_gguf(path).num_parts) > 1:
        raise ModelNotGguf(
            f"{path} is one of {num_parts} parts, and its digest covers none of the others, which "
            "llama.cpp would load too: merge them with `llama-gguf-split --merge`, and have the "
            "digest of the whole approved"
        )


async def ensure_verified(path: Path, sha256: Hash32, *, is_gguf: bool = True) -> None:
    """Like `verify_model`, but a file that was verified before is not hashed again.

    Hashing takes 0.1 s per 100 MB, which a start with a large model would feel. What is remembered
    is bound to size, time of change and inode, so a file that was replaced or written to is
    hashed again. Whoever can forge that can also write the file while it is loaded.

    Raises:
        ModelMissing, ModelHashMismatch, ModelNotGguf: as `verify_model`.
    """
    if not await to_thread.run_sync(_was_verified, path, sha256):
        await verify_model(path, sha256, is_gguf=is_gguf)
        await remember_verified(path, sha256)
        return
    if is_gguf:
        await check_header(path)  # it may have been verified by a version that took parts


def _was_verified(path: Path, sha256: Hash32) -> bool:
    try:
        return json.loads(_memory_of(path).read_bytes()) == _identity(path, sha256)
    except (OSError, ValueError):
        return False


def remembered_digest(path: Path) -> tuple[Hash32 | None, bool]:
    """The digest that a file had when it was last verified, and whether it is still that file.

    Raises:
        OSError: there is no such file.
    """
    try:
        remembered: object = json.loads(_memory_of(path).read_bytes())
        sha256 = parse_hash32(str(cast("dict[str, object]", remembered)["sha256"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None, False
    return sha256, remembered == _identity(path, sha256)


async def remember_verified(path: Path, sha256: Hash32) -> None:
    """Note that a file's bytes were just verified; in a read-only folder that stays unsaid."""
    with suppress(OSError):
        await to_thread.run_sync(_remember_verified, path, sha256)


def _remember_verified(path: Path, sha256: Hash32) -> None:
    memory = _memory_of(path)
    replace_private(memory, json.dumps(_identity(path, sha256)).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """What changes when a file is written to or replaced, but for whoever forges it."""

    size: int
    mtime_ns: int
    inode: int


def identity_of(path: Path) -> FileIdentity:
    """That of a file now. Raises OSError: there is none."""
    status = path.stat()
    return FileIdentity(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


def _memory_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _identity(path: Path, sha256: Hash32) -> dict[str, str | int]:
    return {"sha256": sha256, **asdict(identity_of(path))}
