"""Puts results into a cache until it is killed, saying which it has acknowledged: FOLDER."""

import secrets
import sys
import time
from pathlib import Path

import anyio

from fabstir.crypto import NATIVE
from fabstir.s5.cache.results import open_result_cache
from fabstir.s5.store import open_store


async def main(folder: str) -> None:
    async with (
        open_store(Path(folder), NATIVE) as store,
        open_result_cache(
            store,
            owner="results",
            key=b"\7" * 32,
            crypto=NATIVE,
            random=secrets.token_bytes,
            clock=time.time,
            max_bytes=20_000,
            default_ttl=3600,
        ) as cache,
    ):
        for number in range(1_000_000):
            await cache.put(f"answers/{number % 40}", f"{number:1000}".encode())
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
