"""A large blob from one node and from two, every group verified on the way."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import httpx

from bench.s5_doors import running_node
from bench.s5_measure import print_table, rate, size_name, stream
from fabstir.primitives.cid import BlobId
from fabstir.s5.portals import open_client
from fabstir.s5.transfer.fetch import BlobSource, fetch_blob
from fabstir.web.reach import Reach


async def from_sources(folder: Path, size: int) -> None:
    """Over loopback, into a file that is flushed."""
    for name in ("one", "two"):
        await anyio.Path(folder / name).mkdir()
    async with running_node(folder / "one") as one, running_node(folder / "two") as two:
        blobs = [await _upload(node, size) for node in (one, two)]
        blob, urls = blobs[0], [str(node.base_url) for node in (one, two)]
        rows = [await _outboard(one, blob), await _plain(one, blob, folder / "plain")]
        for count in (1, 2):
            rows.append(await _fetch(blob, urls[:count], folder / f"fetched{count}"))
    print_table(f"{size_name(size)} from nodes", ["way", "speed", "seconds"], rows)


async def _upload(node: httpx.AsyncClient, size: int) -> BlobId:
    answer = await node.post("/s5/upload", content=stream(3, size))
    return BlobId.decode(answer.json()["cid"])


async def _outboard(node: httpx.AsyncClient, blob: BlobId) -> list[str]:
    started = time.perf_counter()
    await node.get(f"/s5/blob/{blob.encode('z')}.obao")
    return _row("the node makes the outboard, once", blob, started)


async def _plain(node: httpx.AsyncClient, blob: BlobId, target: Path) -> list[str]:
    started = time.perf_counter()
    async with (
        await anyio.open_file(target, "wb") as file,
        node.stream("GET", f"/s5/blob/{blob.encode('z')}") as answer,
    ):
        async for piece in answer.aiter_raw():
            await file.write(piece)
    await anyio.Path(target).unlink()
    return _row("GET into a file, by httpx, not verified", blob, started)


async def _fetch(blob: BlobId, urls: list[str], target: Path) -> list[str]:
    started = time.perf_counter()
    async with open_client(Reach(allow_private=True)) as client:
        sources = [BlobSource.portal(url, blob) for url in urls]
        await fetch_blob(blob, sources, target, client=client)
    await anyio.Path(target).unlink()
    return _row(f"fetch_blob from {len(urls)}: verified, flushed", blob, started)


def _row(name: str, blob: BlobId, started: float) -> list[str]:
    took = time.perf_counter() - started
    return [name, rate(blob.size, took), f"{took:.2f}"]
