"""Starting and ending anvil: nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from fabstir.chain.anvil import (
    DEV_CHAIN_ID,
    _fetch,  # pyright: ignore[reportPrivateUsage] - only reached on a machine without anvil
    open_anvil,
)
from fabstir.chain.identity import genesis_hash
from fabstir.chain.rpc import open_chain
from fabstir.primitives.errors import ConfigError, RpcUnavailable
from fabstir.primitives.ids import ChainId

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

_PARENT = """
import asyncio
from fabstir.chain.anvil import open_anvil

async def main():
    async with open_anvil() as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def is_gone(url: str) -> bool:
    """Whether nothing listens there, within five seconds."""
    host, port = url.removeprefix("http://").split(":")
    with anyio.move_on_after(5):
        while True:
            try:
                stream = await anyio.connect_tcp(host, int(port))
            except OSError:
                return True
            await stream.aclose()
    return False


async def test_it_ends_with_its_block() -> None:
    chain_id = ChainId(84532)
    async with open_anvil(chain_id=chain_id) as url, open_chain(url, chain_id=chain_id) as chain:
        assert await chain.block_number() == 0

    assert await is_gone(url)


async def test_no_two_chains_begin_with_the_same_block() -> None:
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(open_anvil()) for _ in range(4)]
        chains = [
            await stack.enter_async_context(open_chain(url, chain_id=DEV_CHAIN_ID)) for url in urls
        ]
        found = {await genesis_hash(chain) for chain in chains}

    assert len(found) == 4


async def test_it_ends_when_the_block_fails() -> None:
    url = ""

    with pytest.raises(RpcUnavailable):
        async with open_anvil() as url:
            raise RpcUnavailable("as it is raised, not in a group")

    assert await is_gone(url)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the child with its parent")
async def test_it_ends_when_its_parent_is_killed() -> None:
    def start_and_kill() -> str:
        command = [sys.executable, "-c", _PARENT]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            url = parent.stdout.readline().strip()
            parent.kill()
            return url

    url = await anyio.to_thread.run_sync(start_and_kill)

    assert url.startswith("http://127.0.0.1:")
    assert await is_gone(url)


async def test_blocks_come_by_the_clock() -> None:
    async with (
        open_anvil(block_time=1) as url,
        open_chain(url, chain_id=ChainId(31337)) as chain,
    ):
        with anyio.fail_after(5):
            while await chain.block_number() < 1:
                await anyio.lowlevel.checkpoint()


async def test_without_npm_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="no npm to fetch one with: install anvil"):
        await _fetch("@foundry-rs/anvil-linux-amd64@1.7.1", tmp_path)
