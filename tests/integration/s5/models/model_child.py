"""Fetches a model by its CID in a process of its own, saying how far it is.

Arguments: CID SHA256 FOLDER URL...
"""

import sys
from functools import partial
from pathlib import Path

import anyio

from fabstir.models import ModelSpec, S5Source, fetch_model
from fabstir.primitives.cid import BlobId
from fabstir.primitives.ids import parse_hash32
from fabstir.s5.transfer.fetch import BlobSource


def main(arguments: list[str]) -> None:
    cid, sha256, folder, *urls = arguments

    async def find(blob: BlobId) -> list[BlobSource]:
        return [BlobSource.portal(url, blob) for url in urls]

    source = S5Source(blob=BlobId.decode(cid), find=find)
    spec = ModelSpec(repo="org/tiny", file="tiny.gguf", sha256=parse_hash32(sha256), source=source)
    fetch = partial(fetch_model, spec, Path(folder), on_progress=report)
    sys.stdout.write(f"path {anyio.run(fetch)}\n")


def report(done: int, total: int) -> None:
    sys.stdout.write(f"{done} {total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
