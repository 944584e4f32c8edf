"""What several tests of the store need."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from random import Random

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.s5.store import BlobStore, Finding

LARGE = 300_000
"""Bytes of a blob that is kept as a file: two groups."""


def content(seed: int | str, size: int) -> bytes:
    """Bytes that are the same for the same seed."""
    return Random(f"{seed}/{size}").randbytes(size)


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def joined(pieces: AsyncIterable[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def get(store: BlobStore, blob: BlobId | Multihash) -> bytes:
    name = blob.multihash if isinstance(blob, BlobId) else blob
    return await store.get(name, max_bytes=1 << 30)


def files(folder: Path) -> list[Path]:
    """Files of blobs, half-written ones included."""
    return sorted(
        path for part in ("blobs", "tmp") for path in (folder / part).rglob("*") if path.is_file()
    )


async def findings(store: BlobStore) -> list[Finding]:
    reports = store.scrub(max_bytes_per_second=1e12)
    return [finding async for report in reports for finding in report.findings]


def flip(file: Path, position: int) -> None:
    """Change one bit of a file, as a rotting disk does."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
