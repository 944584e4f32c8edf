"""Put and get of 1 KiB through a portal 50 ms away: `python -m bench.s5_portal`.

The portal is our own node behind its real doors, in this process; between it and the client lies a
wire that delays every byte by half of the round trip. Nothing is asked of a network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
from tests.integration.s5.door.door import open_door

from bench.s5_wire import open_wire
from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.s5.portals import Portal, PortalHttp, PortalPool, PortalSession, open_client

ROUND_TRIP = 0.050
BLOB_BYTES = 1024
GOAL = 0.100
"""Seconds over the round trip, for 95 of 100."""


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds, sorted."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        return self.seconds[int(len(self.seconds) * 0.95)]


async def measure(num: int, round_trip: float = ROUND_TRIP) -> list[Row]:
    """Each operation `num` times, one after the other, on a connection that is kept."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_door(Path(folder) / "node") as door, open_client() as client:
            account = await door.account()
            async with open_wire(int(door.url.rpartition(":")[2]), delay=round_trip / 2) as wire:
                http = PortalHttp(wire.url, client)
                portal = Portal(http, NATIVE, PortalSession(http, NATIVE, token=account.token))
                pool = PortalPool([portal], NATIVE)
                await portal.version()  # connects
                blobs = [os.urandom(BLOB_BYTES) for _ in range(num)]
                stored = iter([NATIVE.blake3(blob) for blob in blobs])
                waiting = iter(blobs)

                async def put() -> None:
                    await pool.put(next(waiting), reason="bench")

                async def get() -> None:

                    await pool.get(Multihash(next(stored)), max_bytes=BLOB_BYTES)

                async def version() -> None:
                    await portal.version()

                return [
                    await _repeat("no work (GET /s5/version)", num, version),
                    await _repeat("put 1 KiB", num, put),
                    await _repeat("get 1 KiB, verified", num, get),
                ]


async def _repeat(name: str, num: int, call: Callable[[], Awaitable[None]]) -> Row:
    seconds: list[float] = []
    for _ in range(num):
        start = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - start)
    return Row(name, sorted(seconds))


def table(rows: list[Row], round_trip: float = ROUND_TRIP) -> str:
    """For people."""
    what = f"{BLOB_BYTES} bytes, {len(rows[0].seconds)} times each"
    lines = [
        f"S5 portal, {round_trip * 1000:.0f} ms of round trip added: {what}",
        f"{'':28}{'p50':>10}{'p95':>10}{'p95 over the round trip':>26}",
    ]
    for row in rows:
        over = row.p95 - round_trip
        lines.append(
            f"{row.name:28}{row.median * 1000:>7.1f} ms{row.p95 * 1000:>7.1f} ms"
            f"{over * 1000:>19.1f} ms{'' if over < GOAL else '  over the goal'}"
        )
    lines.append(f"goal: p95 below {GOAL * 1000:.0f} ms over the round trip")
    return "\n".join(lines)


def main() -> int:
    """Returns the process's exit code: 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.s5_portal")
    parser.add_argument("num", nargs="?", type=int, default=200)
    rows = anyio.run(measure, parser.parse_args().num)
    print(table(rows))
    return int(any(row.p95 - ROUND_TRIP >= GOAL for row in rows))


if __name__ == "__main__":
    sys.exit(main())
