"""Fetches a blob in a process of its own, saying how far it is: CID TARGET URL..."""

import sys
from pathlib import Path

import anyio

from fabstir.primitives.cid import BlobId
from fabstir.s5.portals.http import open_client
from fabstir.s5.transfer.fetch import BlobSource, fetch_blob
from fabstir.web.reach import Reach


async def main(arguments: list[str]) -> None:
    cid, target, *urls = arguments
    sources = [BlobSource.location(url) for url in urls]
    async with open_client(Reach(allow_private=True)) as client:
        await fetch_blob(
            BlobId.decode(cid), sources, Path(target), client=client, on_progress=report
        )
    sys.stdout.write("done\n")


def report(done: int, total: int) -> None:
    sys.stdout.write(f"{done} {total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1:])
