"""A node as `fabstir s5 serve` runs it, in a process of its own, through its HTTP doors."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
from anyio.streams.text import TextReceiveStream

from bench.s5_measure import MIB, p50_p95, print_table, rate, size_name, stream, time_each, unlike

START_TIMEOUT = 60.0


@asynccontextmanager
async def running_node(folder: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """A client with the owner's token, of a node that serves for the length of the block."""
    settings = {
        "paths.data_dir": folder / "data",
        "s5.identity": folder / "s5.identity",
        "s5.port": "0",
        "metrics.port": "0",
    }
    flags = [f"--set={name}={value}" for name, value in settings.items()]
    config = folder / "config.toml"
    await anyio.Path(config).write_text("")
    command = [sys.executable, "-m", "fabstir", f"--config={config}", *flags]
    async with await anyio.open_process([*command, "--json", "s5", "serve"], stderr=None) as node:
        assert node.stdout is not None
        facts = await _first_value(TextReceiveStream(node.stdout))
        token = (await anyio.Path(facts["s5_token_file"]).read_text()).strip()
        async with httpx.AsyncClient(
            base_url=facts["s5_local_url"],
            headers={"Authorization": f"Bearer {token}"},
            timeout=300,
            trust_env=False,
        ) as client:
            yield client
        node.terminate()


async def _first_value(lines: TextReceiveStream) -> dict[str, str]:
    text = ""
    with anyio.fail_after(START_TIMEOUT):
        async for piece in lines:
            text += piece
            try:
                return json.loads(text)
            except ValueError:
                continue  # not all of it yet
    raise RuntimeError("the node ended before it served")


async def put_and_get(client: httpx.AsyncClient, sizes: dict[int, int]) -> None:
    """Through the bridge (/s5/fs, encrypted) and the portal API (/s5/upload, in clear)."""
    rows: list[list[str]] = []
    for size, count in sizes.items():
        rows += [
            await _bridge(client, size, count),
            await _portal(client, size, count),
        ]
    print_table(
        "Through the REST doors, by httpx",
        ["door", "blob", "times", "put p50 / p95", "get p50 / p95", "put", "get"],
        rows,
    )


async def _bridge(client: httpx.AsyncClient, size: int, count: int) -> list[str]:
    def path(number: int) -> str:
        return f"/s5/fs/bench-{size}/{number}.bin"

    async def put(number: int) -> None:
        answer = await client.put(path(number), content=_body(number, size))
        assert answer.status_code == 201, answer.text

    puts = await time_each(count, put)
    gets = await time_each(count, lambda number: _get(client, path(number), size))
    return _row("PUT, GET /s5/fs", size, puts, gets)


async def _portal(client: httpx.AsyncClient, size: int, count: int) -> list[str]:
    cids: list[str] = []

    async def put(number: int) -> None:
        answer = await client.post("/s5/upload", content=_body(number + (1 << 20), size))
        assert answer.status_code == 200, answer.text
        cids.append(answer.json()["cid"])

    puts = await time_each(count, put)
    gets = await time_each(count, lambda number: _get(client, f"/s5/download/{cids[number]}", size))
    return _row("POST /s5/upload, GET /s5/download", size, puts, gets)


def _row(name: str, size: int, puts: list[float], gets: list[float]) -> list[str]:
    total = size * len(puts)
    return [
        name,
        size_name(size),
        str(len(puts)),
        p50_p95(puts),
        p50_p95(gets),
        rate(total, sum(puts)),
        rate(total, sum(gets)),
    ]


def _body(number: int, size: int) -> bytes | AsyncIterator[bytes]:
    return unlike(number, size) if size <= MIB else stream(number, size)


async def _get(client: httpx.AsyncClient, path: str, size: int) -> None:
    num_bytes = 0
    async with client.stream("GET", path) as answer:
        assert answer.status_code == 200, answer.status_code
        async for piece in answer.aiter_raw():
            num_bytes += len(piece)
    assert num_bytes == size
