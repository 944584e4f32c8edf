"""What strangers send to a node's port, beyond what its doors take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.integration.s5.run.conftest import s5_settings
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.s5.run.build import open_s5
from fabstir.telemetry.metrics import MetricsRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def _in_parts(frame: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(frame), 1 << 16):
        yield frame[start : start + (1 << 16)]


@pytest.mark.parametrize("is_in_parts", [False, True])
async def test_a_frame_that_is_too_long_ends_its_connection_only(
    tmp_path: Path, is_in_parts: bool
) -> None:
    frame = bytes(MAX_WIRE_BYTES + 1)
    async with open_s5(s5_settings(tmp_path), MetricsRegistry()) as node:
        url = node.local_url.replace("http", "ws") + "/s5/p2p"
        async with connect(url, proxy=None) as other, connect(url, proxy=None) as socket:
            with pytest.raises(ConnectionClosed) as caught:
                await socket.send(_in_parts(frame) if is_in_parts else frame)
                while True:
                    await socket.recv()
            first_message = await other.recv()

        async with httpx.AsyncClient() as client:
            health = await client.get(f"{node.local_url}/health")

    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == CloseCode.MESSAGE_TOO_BIG
    assert first_message
    assert health.status_code == 200
