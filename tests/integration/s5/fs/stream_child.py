"""Streams one file in and out, and says how much memory that took, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter

import anyio
from tests.integration.s5.fs.crash_child import file_system_of, say

from fabstir.crypto import NATIVE, Blake3
from fabstir.s5.store import open_store

PIECE_BYTES = 1 << 20


def peak_bytes() -> int:
    """The most that was resident, from the kernel; getrusage's also counts the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def pieces(size: int, hasher: Blake3) -> AsyncIterator[bytes]:
    for number in range(size // PIECE_BYTES):
        piece = number.to_bytes(8, "little") * (PIECE_BYTES // 8)
        hasher.update(piece)
        yield piece


async def stream(folder: Path, size: int) -> None:
    written, read = Blake3(), Blake3()
    async with open_store(folder, NATIVE) as store:
        fs = file_system_of(store)
        await fs.put("small", b"x" * PIECE_BYTES)
        await fs.get("small", PIECE_BYTES)
        before = peak_bytes()
        started = perf_counter()
        info = await fs.put("large", pieces(size, written))
        stored = perf_counter()
        async for piece in fs.read("large"):
            read.update(piece)
        ended = perf_counter()
        found = {
            "grown": peak_bytes() - before,
            "size": info.size,
            "is_equal": written.digest() == read.digest(),
            "put_seconds": stored - started,
            "read_seconds": ended - stored,
        }
        say(json.dumps(found))


if __name__ == "__main__":
    anyio.run(stream, Path(sys.argv[1]), int(sys.argv[2]))
