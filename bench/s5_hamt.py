"""Directories of a thousand to a million files, as trees with leaves of 16 and of 1,000 entries.

`python -m bench.s5_hamt [NUM_ENTRIES ...]` prints one table. The nodes are in memory and every one
is verified against its hash when it is loaded, so that what is measured is the format. Sealed trees
hold the keys of encrypted files, and their nodes are encrypted and padded to blocks of 4 KiB.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from statistics import fmean, quantiles

import anyio

from fabstir.crypto import NATIVE
from fabstir.s5.formats.dialects import encode_directory
from fabstir.s5.formats.directory import Directory, DirectoryDialect, FileEncryption, FileRef
from fabstir.s5.formats.encryption import open_mutable, seal_mutable
from fabstir.s5.formats.hamt import Updated, build, entries, lookup_many, update
from fabstir.s5.formats.hamt_nodes import HamtConfig
from fabstir.s5.formats.limits import HAMT_LEAF_ENTRIES, MAX_HAMT_LEAF_ENTRIES

KEY = b"\7" * 32
NUM_LOOKUPS = 2000
"""Single lookups of a row. All entries are listed, which checks that a lookup would find them."""

NUM_INSERTS = 200


@dataclass(slots=True)
class Blobs:
    """A store of nodes that hashes what it keeps and verifies what it gives."""

    is_sealed: bool
    kept: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    num_loaded_bytes: int = 0
    nonces: random.Random = field(default_factory=lambda: random.Random(1))

    def seal(self, data: bytes) -> bytes:
        """What is stored of a node or directory."""
        if not self.is_sealed:
            return data
        return seal_mutable(data, KEY, self.nonces.randbytes(24), NATIVE)

    async def store(self, data: bytes) -> bytes:
        """Keep a node."""
        blob = self.seal(data)
        link = NATIVE.blake3(blob)
        self.kept[link] = blob
        return link

    async def load(self, link: bytes) -> bytes:
        """A node, verified."""
        blob = self.kept[link]
        if NATIVE.blake3(blob) != link:
            raise AssertionError("a blob changed in memory")
        self.num_loaded_bytes += len(blob)
        return open_mutable(blob, KEY, NATIVE) if self.is_sealed else blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one tree costs.

    Attributes:
        build_seconds: of one core, which others may use as well meanwhile.
        insert_bytes: rewritten for one new file, the directory's own blob included.
    """

    num_entries: int
    max_leaf_entries: int
    is_sealed: bool
    build_seconds: float
    num_nodes: int
    biggest_node: int
    misses: int
    lookup_p50: float
    lookup_p99: float
    lookup_bytes: float
    insert_bytes: float
    insert_bytes_max: int
    insert_seconds: float

    def cells(self) -> list[str]:
        """The row of the table."""
        return [
            f"{self.num_entries:,}",
            f"{self.max_leaf_entries:,}",
            "sealed" if self.is_sealed else "clear",
            f"{self.build_seconds:.2f} s",
            f"{self.num_nodes:,}",
            f"{self.biggest_node / 1024:,.1f} KiB",
            f"{self.misses}",
            f"{self.lookup_p50 * 1e3:.2f} / {self.lookup_p99 * 1e3:.2f} ms",
            f"{self.lookup_bytes / 1024:,.1f} KiB",
            f"{self.insert_bytes / 1024:,.1f} / {self.insert_bytes_max / 1024:,.1f} KiB",
            f"{self.insert_seconds * 1e3:.2f} ms",
        ]


HEADINGS = [
    "entries", "leaf", "nodes are", "build (CPU)", "nodes", "biggest", "misses", "lookup p50 / p99",
    "read per lookup", "rewritten per insert, mean / max", "time per insert",
]  # fmt: skip


def make_file(number: int, *, is_encrypted: bool) -> FileRef:
    """A file as our file system writes it."""
    content = NATIVE.blake3(number.to_bytes(8, "little"))
    return FileRef(
        hash=content,
        size=number,
        media_type="text/plain",
        timestamp=1_700_000_000 + number,
        encryption=FileEncryption(key=content[::-1]) if is_encrypted else None,
    )


async def measure(
    num_entries: int,
    *,
    max_leaf_entries: int,
    is_sealed: bool,
    num_lookups: int = NUM_LOOKUPS,
    num_inserts: int = NUM_INSERTS,
) -> Row:
    """Build one directory, read it anew, and insert into it."""
    if max_leaf_entries > HAMT_LEAF_ENTRIES:
        # Each takes tens of milliseconds.
        num_lookups, num_inserts = num_lookups // 20 + 2, num_inserts // 20 + 1
    blobs = Blobs(is_sealed)

    def items() -> Iterator[tuple[str, FileRef]]:
        for number in range(num_entries):
            yield f"f:file{number}.bin", make_file(number, is_encrypted=is_sealed)

    started = time.process_time()
    config = HamtConfig(max_leaf_entries=max_leaf_entries)
    tree = await build(items(), blobs.store, NATIVE, config=config)
    build_seconds = time.process_time() - started
    num_nodes, biggest = len(blobs.kept), max(map(len, blobs.kept.values()))

    missing = {key async for key in _missing(tree, blobs)}
    blobs.num_loaded_bytes = 0
    times = [seconds async for seconds in _lookups(tree, blobs, missing, num_lookups)]
    lookup_bytes = blobs.num_loaded_bytes / len(times)

    started = time.perf_counter()
    written = [await _insert(tree, blobs, number) for number in range(num_inserts)]
    return Row(
        num_entries=num_entries,
        max_leaf_entries=max_leaf_entries,
        is_sealed=is_sealed,
        build_seconds=build_seconds,
        num_nodes=num_nodes,
        biggest_node=biggest,
        misses=len(missing),
        lookup_p50=quantiles(times, n=100)[49],
        lookup_p99=quantiles(times, n=100)[98],
        lookup_bytes=lookup_bytes,
        insert_bytes=fmean(written),
        insert_bytes_max=max(written),
        insert_seconds=(time.perf_counter() - started) / num_inserts,
    )


async def _missing(tree: Updated, blobs: Blobs) -> AsyncIterator[str]:
    """The keys that a fresh reader does not find, or finds changed, when it lists the tree."""
    expected = set(range(tree.num_entries))
    async for key, entry in entries(tree.root, blobs.load, NATIVE):
        number = int(key.removeprefix("f:file").removesuffix(".bin"))
        if entry == make_file(number, is_encrypted=blobs.is_sealed):
            expected.discard(number)
    for number in expected:
        yield f"f:file{number}.bin"


async def _lookups(
    tree: Updated, blobs: Blobs, missing: set[str], count: int
) -> AsyncIterator[float]:
    for number in random.Random(2).choices(range(tree.num_entries), k=count):
        key = f"f:file{number}.bin"
        started = time.perf_counter()
        entry = (await lookup_many(tree.root, [key], blobs.load, NATIVE)).get(key)
        yield time.perf_counter() - started
        if entry != make_file(number, is_encrypted=blobs.is_sealed):
            missing.add(key)


async def _insert(tree: Updated, blobs: Blobs, number: int) -> int:
    """Bytes that are uploaded for one new file: nodes, and the directory that names the root."""
    file = make_file(number, is_encrypted=blobs.is_sealed)
    after = await update(tree.root, {f"f:new{number}": file}, blobs.load, blobs.store, NATIVE)
    own = encode_directory(
        Directory(files={}, dirs={}, sharding=after.sharding()), DirectoryDialect.CANONICAL
    )
    return sum(len(blobs.kept[link]) for link in after.new) + len(blobs.seal(own))


async def main(counts: list[int]) -> None:
    """Measure and print."""
    print("| " + " | ".join(HEADINGS) + " |")
    print("|" + " --- |" * len(HEADINGS))
    for count in counts:
        for max_leaf_entries, is_sealed in (
            (HAMT_LEAF_ENTRIES, False),
            (HAMT_LEAF_ENTRIES, True),
            (MAX_HAMT_LEAF_ENTRIES, False),
        ):
            row = await measure(count, max_leaf_entries=max_leaf_entries, is_sealed=is_sealed)
            print("| " + " | ".join(row.cells()) + " |", flush=True)


if __name__ == "__main__":
    anyio.run(main, [int(text) for text in sys.argv[1:]] or [1005, 40_000, 1_000_000])
