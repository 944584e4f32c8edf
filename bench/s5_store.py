"""The local store: put and get, against `cp` and a hash; memory; start-up with a million blobs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from sqlalchemy import Connection

from bench.s5_measure import (
    GIB,
    KIB,
    MIB,
    p50_p95,
    print_table,
    rate,
    size_name,
    stream,
    time_each,
    unlike,
)
from fabstir.crypto import NATIVE, Blake3
from fabstir.primitives.cid import BlobId
from fabstir.s5.store import BlobStore, open_store
from fabstir.s5.tables.blobs import Content, insert_blob
from fabstir.s5.verified.tree import TreeBuilder

OWNER = "bench"
_ROWS_A_COMMIT = 20_000
_READ_BYTES = 4 * MIB


async def put_and_get(folder: Path, sizes: dict[int, int]) -> None:
    """Sizes and how often each."""
    rows: list[list[str]] = []
    async with open_store(folder / "store", NATIVE) as store:
        for size, count in sizes.items():
            blobs: list[BlobId] = []

            async def put(number: int, size: int = size, blobs: list[BlobId] = blobs) -> None:
                data = unlike(number, size) if size <= MIB else stream(number, size)
                blobs.append(await store.put(data, owner=OWNER, reason="bench"))

            async def get(number: int, size: int = size, blobs: list[BlobId] = blobs) -> None:
                await read_all(store, blobs[number], size)

            puts = await time_each(count, put)
            gets = await time_each(count, get)
            rows.append(
                [
                    size_name(size),
                    str(count),
                    p50_p95(puts),
                    p50_p95(gets),
                    rate(size * count, sum(puts)),
                    rate(size * count, sum(gets)),
                ]
            )
    print_table(
        "Local store: put (durable) and get (verified)",
        ["blob", "times", "put p50 / p95", "get p50 / p95", "put", "get"],
        rows,
    )


async def read_all(store: BlobStore, blob: BlobId, size: int) -> None:
    """Every byte of a blob, verified."""
    if size <= MIB:
        assert len(await store.get(blob.multihash, max_bytes=size)) == size
        return
    num_bytes = 0
    async for piece in store.read(blob.multihash):
        num_bytes += len(piece)
    assert num_bytes == size


async def against_cp(folder: Path, size: int, rounds: int) -> None:
    """A file into the store, and the same file by `cp` and a hash, in turn."""
    source = folder / "source.bin"
    with source.open("wb") as file:
        async for piece in stream(7, size):
            file.write(piece)
    hash_name = "b3sum" if shutil.which("b3sum") else "blake3 package, 1 thread"
    seconds: dict[str, list[float]] = {}

    def note(name: str, started: float) -> None:
        seconds.setdefault(name, []).append(time.perf_counter() - started)

    for number in range(rounds):
        copy = folder / f"copy{number}"
        started = time.perf_counter()
        await anyio.run_process(["cp", source, copy])
        await _hash(copy)
        note(f"cp + {hash_name}, in the page cache", started)
        copy.unlink()

        started = time.perf_counter()
        await anyio.run_process(["cp", source, copy])
        await _hash(copy)
        _flush(copy)
        note(f"cp + {hash_name} + fsync", started)
        copy.unlink()

        async with open_store(folder / f"cp-store{number}", NATIVE) as store:
            started = time.perf_counter()
            async with await anyio.open_file(source, "rb") as file:
                blob = await store.put(_pieces(file), owner=OWNER, reason="bench")
            note("our put: hashed, named and flushed", started)
            started = time.perf_counter()
            await read_all(store, blob, size)
            note("our get: every byte verified", started)
        shutil.rmtree(folder / f"cp-store{number}")

        started = time.perf_counter()
        builder = TreeBuilder()
        with source.open("rb") as file:
            while block := file.read(_READ_BYTES):
                builder.update(block)
        builder.finish()
        note("verification tree (outboard), numpy", started)
    source.unlink()
    base = min(seconds[f"cp + {hash_name} + fsync"])
    rows = [
        [name, rate(size, min(times)), f"{base / min(times):.2f}"]
        for name, times in seconds.items()
    ]
    title = f"{size_name(size)} into the store, best of {rounds}"
    print_table(title, ["way", "speed", "ratio to cp + hash + fsync"], rows)


async def _hash(path: Path) -> None:
    if shutil.which("b3sum"):
        await anyio.run_process(["b3sum", path])
        return
    hasher = Blake3()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            hasher.update(block)
    hasher.digest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


async def _pieces(file: anyio.AsyncFile[bytes]) -> AsyncIterator[bytes]:
    while piece := await file.read(MIB):
        yield piece


async def start_up(folder: Path, num_blobs: int) -> None:
    """How long opening takes when there is much: rows only, made in large transactions."""
    place = folder / "many"
    async with open_store(place, NATIVE) as store:
        await _fill(store, num_blobs)
    started = time.perf_counter()
    async with open_store(place, NATIVE) as store:
        opened = time.perf_counter() - started
        blob = BlobId(NATIVE.blake3(_small(num_blobs - 1)), 16)
        started = time.perf_counter()
        assert await store.get(blob.multihash, max_bytes=16) == _small(num_blobs - 1)
        first = time.perf_counter() - started
    database = (place / "store.sqlite").stat().st_size
    row = [
        f"{num_blobs:,}",
        f"{opened * 1e3:,.0f} ms",
        f"{first * 1e3:,.1f} ms",
        f"{database / MIB:,.0f} MiB",
    ]
    print_table("Start-up", ["blobs", "open", "first get", "database"], [row])
    shutil.rmtree(place)


def _small(number: int) -> bytes:
    return number.to_bytes(16, "little")


async def _fill(store: BlobStore, num_blobs: int) -> None:
    for first in range(0, num_blobs, _ROWS_A_COMMIT):
        numbers = range(first, min(num_blobs, first + _ROWS_A_COMMIT))

        def insert(connection: Connection, numbers: range = numbers) -> None:
            for number in numbers:
                data = _small(number)
                content = Content(digest=NATIVE.blake3(data), size=len(data), data=data)
                insert_blob(connection, content, 1.0)

        await store.db.write(insert, durable=False)


async def memory(folder: Path, num_bytes: int) -> None:
    """The most that a process holds while that much goes in and out again."""
    command = [sys.executable, "-m", "bench.s5_stream", str(folder / "stream"), str(num_bytes)]
    done = await anyio.run_process(command, stderr=sys.stderr)
    found = json.loads(done.stdout)
    row = [
        size_name(num_bytes),
        f"{found['rss_before'] / MIB:,.0f} MiB",
        f"{found['rss_most'] / MIB:,.0f} MiB",
        rate(num_bytes, found["put_seconds"]),
        rate(num_bytes, found["get_seconds"]),
    ]
    headings = ["streamed in and out", "RSS before", "most RSS", "put", "get"]
    print_table("Memory of a file larger than it", headings, [row])


PUT_AND_GET = {KIB: 300, MIB: 60, 256 * MIB: 6}
QUICK_PUT_AND_GET = {KIB: 100, MIB: 20, 32 * MIB: 3}
STREAMED, QUICK_STREAMED = 4 * GIB, 256 * MIB
