"""Stores a blob, queues its upload and waits for it: `upload_child.py FOLDER URL SIZE`.

Run again on the same folder it only waits. It prints "queued" and "done".
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import anyio

from fabstir.crypto import NATIVE
from fabstir.s5.portals import Backoff, Portal, PortalHttp, open_client, open_upload_queue
from fabstir.s5.store import open_store


def data_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def main(folder: Path, url: str, size: int) -> None:
    async with (
        open_client() as client,
        open_store(folder, NATIVE) as store,
        open_upload_queue(
            store, [Portal(PortalHttp(url, client), NATIVE)], unreachable=Backoff(first=0.05)
        ) as queue,
    ):
        if not [pin async for pin in store.pins()]:
            blob = await store.put(data_of(size), owner="child", reason="file")
            await queue.enqueue(blob)
        sys.stdout.write("queued\n")
        sys.stdout.flush()
        await queue.wait_until_done()
        sys.stdout.write("done\n")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
