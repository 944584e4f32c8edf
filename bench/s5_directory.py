"""Files into one directory of the file system: one by one, and many in a batch."""

from __future__ import annotations

import time
from pathlib import Path

from bench.s5_measure import p50_p95, print_table, time_each
from fabstir.crypto import NATIVE
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.fs import FileSystem
from fabstir.s5.store import LocalBlobs, LocalRegistry, open_store

FILE_BYTES = 100


async def puts(folder: Path, num_single: int, batches: tuple[int, ...]) -> None:
    """Puts a second, encrypted, durable when they return."""
    rows: list[list[str]] = []
    async with open_store(folder / "directory", NATIVE) as store:
        root = Capability.of_keys(Identity(b"\7" * 16, NATIVE).file_system_root(), writable=True)
        fs = FileSystem(LocalBlobs(store, "bench"), LocalRegistry(store, NATIVE), root, NATIVE)

        async def put(number: int) -> None:
            await fs.put(f"single/{number:06}.bin", number.to_bytes(FILE_BYTES, "little"))

        seconds = await time_each(num_single, put)
        each = num_single / sum(seconds)
        rows.append(["single", str(num_single), f"{each:,.0f} /s", p50_p95(seconds)])
        for num_files in batches:
            started = time.perf_counter()
            async with fs.batch() as batch:
                for number in range(num_files):
                    await batch.put(f"b{num_files}/{number:06}.bin", number.to_bytes(100, "little"))
            took = time.perf_counter() - started
            rows.append(["batch", str(num_files), f"{num_files / took:,.0f} /s", f"{took:.2f} s"])
    headings = ["puts into one directory", "files", "rate", "each, p50 / p95; the batch"]
    print_table("Directory", headings, rows)
