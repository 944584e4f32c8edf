"""A resumable upload, from its first byte to its blob; and what copying it into a store costs."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import anyio

from bench.s5_measure import MIB, print_table, size_name, stream
from fabstir.crypto import NATIVE
from fabstir.s5.store import open_store
from fabstir.s5.transfer.resumable import open_resumable_uploads

OWNER = "bench"


async def resumable(folder: Path, size: int, rounds: int) -> None:
    """In this process, without HTTP: what the disk does is what is measured."""
    rows: list[list[str]] = []
    for number in range(rounds):
        place = folder / f"uploads{number}"
        place.mkdir()
        file = place / "copied.bin"
        async with (
            open_store(place / "store", NATIVE) as store,
            open_resumable_uploads(store, place / "uploads") as uploads,
        ):
            upload = await uploads.create(OWNER, size, expected=None, metadata="", quota=None)
            received = await _measure(uploads.append(upload.id, OWNER, 0, _most(number, size)))
            last = await _measure(uploads.append(upload.id, OWNER, size - 1, _last()))
            with file.open("wb") as out:
                async for piece in stream(rounds + number, size):
                    out.write(piece)
            copied = await _measure(store.put(_pieces(file), owner=OWNER, reason="bench"))
        rows.append([size_name(size), received, last, copied])
        shutil.rmtree(place)
    headings = [
        "upload",
        "all but its last byte",
        "its last byte, and the blob",
        "as a copy instead",
    ]
    print_table("Resumable uploads: seconds, and MiB written", headings, rows)


async def _measure(step: Awaitable[object]) -> str:
    started, before = time.perf_counter(), _written()
    await step
    return f"{time.perf_counter() - started:,.2f} s, {(_written() - before) / MIB:,.0f} MiB"


def _written() -> int:
    """Bytes that this process had the kernel bring to the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


async def _most(number: int, size: int) -> AsyncIterator[bytes]:
    rest = size - 1
    async for piece in stream(number, size):
        yield piece[:rest]
        rest -= len(piece)


async def _last() -> AsyncIterator[bytes]:
    yield b"."


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(MIB):
            yield piece
