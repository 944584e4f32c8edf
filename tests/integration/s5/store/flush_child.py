"""A process whose kernel refuses to flush (EIO), from a moment on; run by test_flush.

    python flush_child.py FOLDER

Prints the hash of what was acknowledged, then the errors of what was not.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Final

import anyio

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import StorageError
from fabstir.s5.store import open_store
from fabstir.s5.transfer.resumable import open_resumable_uploads

FLUSHES: Final = {"x86_64": (74, 75, 317), "aarch64": (82, 83, 277)}
"""Numbers of fsync, fdatasync and seccomp."""

_LOAD_NUMBER, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _SET_MODE_FILTER, _ALL_THREADS = 38, 1, 1


class Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction)))


def refuse_flushes() -> None:
    """In all threads of this process, until its end."""
    fsync, fdatasync, seccomp = FLUSHES[platform.machine()]
    instructions = (Instruction * 5)(
        Instruction(_LOAD_NUMBER, 0, 0, 0),
        Instruction(_IF_EQUAL, 1, 0, fsync),
        Instruction(_IF_EQUAL, 0, 1, fdatasync),
        Instruction(_RETURN, 0, 0, _FAIL | errno.EIO),
        Instruction(_RETURN, 0, 0, _ALLOW),
    )
    program = Program(len(instructions), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        seccomp, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


async def main(folder: Path) -> None:
    async with (
        open_store(folder, NATIVE) as store,
        open_resumable_uploads(store, folder / "uploads") as uploads,
    ):
        upload = await uploads.create("a", 100, expected=None, metadata="", quota=None)
        kept = await store.put(b"flushed", owner="a", reason="test")
        say(kept.digest.hex())
        refuse_flushes()
        await outcome(store.put(b"x" * 200_000, owner="a", reason="test"))
        await outcome(uploads.append(upload.id, "a", 0, pieces(b"half")))
        await outcome(store.put(b"one", owner="a", reason="test"))
        await outcome(store.put(b"two", owner="a", reason="test"))
        await outcome(store.unpin("a", [kept.multihash]))
        assert await store.get(kept.multihash, max_bytes=10) == b"flushed"
        assert (await uploads.find(upload.id, "a")).offset == 0


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def outcome(step: Awaitable[object]) -> None:
    try:
        await step
    except StorageError as error:
        say(str(error))
    else:
        say("acknowledged")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
