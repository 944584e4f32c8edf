"""Two nodes that name each other: what neither has, neither looks for at the other for ever."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.run.conftest import free_port, s5_settings

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import NotFound
from fabstir.s5.run.build import S5Running, open_s5
from fabstir.telemetry.metrics import MetricsRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

LARGE = 5 << 20


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncGenerator[list[S5Running]]:
    ports = [free_port(), free_port()]
    async with AsyncExitStack() as stack:
        nodes: list[S5Running] = []
        for name, own, others in (("a", *ports), ("b", *reversed(ports))):
            settings = s5_settings(
                tmp_path / name, port=str(own), peers=f"ws://127.0.0.1:{others}/s5/p2p"
            )
            nodes.append(await stack.enter_async_context(open_s5(settings, MetricsRegistry())))
        for node in nodes:
            await node.parts.peers.wait_connected()
        yield nodes


async def test_what_neither_has_is_not_asked_for_in_circles(pair: list[S5Running]) -> None:
    node = pair[0].parts.node

    # Both hung for as long as anybody waited, each in the other's request.
    with anyio.fail_after(15):
        with pytest.raises(NotFound):
            await node.get(BlobId(bytes(32), 1).multihash, max_bytes=100)
        with pytest.raises(NotFound):
            async for _ in node.read(BlobId(bytes(32), LARGE)):
                pass
        # It took two times the registry's timeout of 5 s.
        assert await pair[0].parts.registry.get(bytes(32)) is None
