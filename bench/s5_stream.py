"""Streams a large blob into a store and out again; says how much memory it took: FOLDER BYTES."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path

import anyio

from bench.s5_measure import stream
from fabstir.crypto import NATIVE
from fabstir.s5.store import open_store


def most_memory() -> int:
    """Bytes of resident memory, the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def main(folder: Path, num_bytes: int) -> None:
    """Print the measurements as JSON."""
    async with open_store(folder, NATIVE) as store:
        before, started = most_memory(), time.perf_counter()
        blob = await store.put(stream(1, num_bytes), owner="bench", reason="bench")
        put_seconds = time.perf_counter() - started
        started, num_read = time.perf_counter(), 0
        async for piece in store.read(blob.multihash):
            num_read += len(piece)
        get_seconds = time.perf_counter() - started
        assert num_read == num_bytes
    shutil.rmtree(folder)
    found = {
        "rss_before": before,
        "rss_most": most_memory(),
        "put_seconds": put_seconds,
        "get_seconds": get_seconds,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
