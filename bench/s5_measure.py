"""Timing, tables, and a folder on the disk that is measured."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from statistics import median, quantiles

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PIECE_BYTES = MIB


async def time_each(count: int, call: Callable[[int], Awaitable[object]]) -> list[float]:
    """Seconds of each call, one after the other; the first, which warms up, is not counted."""
    await call(0)
    seconds: list[float] = []
    for number in range(1, count + 1):
        started = time.perf_counter()
        await call(number)
        seconds.append(time.perf_counter() - started)
    return seconds


def p50_p95(seconds: Sequence[float]) -> str:
    """For people, in milliseconds."""
    if len(seconds) < 2:
        return f"{seconds[0] * 1e3:,.2f} ms"
    high = quantiles(seconds, n=20, method="inclusive")[18]
    return f"{median(seconds) * 1e3:,.2f} / {high * 1e3:,.2f} ms"


def rate(num_bytes: float, seconds: float) -> str:
    """MiB a second."""
    return f"{num_bytes / seconds / MIB:,.0f} MiB/s"


def size_name(num_bytes: int) -> str:
    """1 KiB, 256 MiB ..."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes // unit:,} {name}"
    return f"{num_bytes} B"


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """In Markdown, so that it can go into a document as it is."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(headings) + " |")
    print("|" + " --- |" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def unlike(number: int, num_bytes: int) -> bytes:
    """Bytes that no other number gives, so that nothing is stored already; not compressible."""
    return number.to_bytes(8, "little") + _NOISE[: num_bytes - 8]


async def stream(number: int, num_bytes: int) -> AsyncIterator[bytes]:
    """The same in pieces of 1 MiB, each of them another."""
    for offset in range(0, num_bytes, PIECE_BYTES):
        piece = unlike(number << 32 | offset // PIECE_BYTES, PIECE_BYTES)
        yield piece[: num_bytes - offset]


_NOISE = os.urandom(PIECE_BYTES)
