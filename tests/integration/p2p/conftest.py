"""Real libp2p nodes on loopback. Imported first, so that libp2p comes without its warnings."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.unit.p2p.making import NOW

from fabstir.crypto import NATIVE
from fabstir.p2p import P2PConfig, P2PNode, _core, open_p2p
from fabstir.web.reach import Reach

OpenNode = Callable[..., Coroutine[Any, Any, P2PNode]]
OpenCore = Callable[..., Coroutine[Any, Any, _core.P2PCore]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., P2PConfig]:
    """A configuration with a key of its own and any free port."""
    numbers = itertools.count()

    def make(**changes: Any) -> P2PConfig:
        settings: dict[str, Any] = {"identity_path": tmp_path / f"{next(numbers)}.key"}
        settings |= {"tcp_port": 0, "reach": Reach(allow_private=True)} | changes
        return P2PConfig(**settings)

    return make


@pytest.fixture
async def open_node(make_config: Callable[..., P2PConfig]) -> AsyncGenerator[OpenNode]:
    """Open nodes that live until the test ends; their clocks stand at NOW."""
    async with AsyncExitStack() as stack:

        async def open_one(*, clock: Callable[[], float] = lambda: NOW, **changes: Any) -> P2PNode:
            config = make_config(**changes)
            node = await stack.enter_async_context(open_p2p(config, NATIVE, clock=clock))
            if config.bootstrap:
                await node.wait_for_peers()
            return node

        yield open_one


@pytest.fixture
async def open_core(make_config: Callable[..., P2PConfig]) -> AsyncGenerator[OpenCore]:
    """Open cores on the test's own trio loop that live until the test ends."""
    async with AsyncExitStack() as stack:

        async def open_one(**changes: Any) -> _core.P2PCore:
            config = make_config(**changes)
            core = await stack.enter_async_context(_core.open_core(config, NATIVE, lambda: NOW))
            if config.bootstrap:
                with anyio.fail_after(10):
                    await core.wait_for_peers()
            return core

        yield open_one
