"""A server that ends while a request runs: the client is told, and no traceback is logged."""

from __future__ import annotations

import logging

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.integration.web.served import MAX_FRAME_BYTES, read_all

from fabstir.web.inbound import server
from fabstir.web.inbound.server import bind, open_server

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.mark.parametrize("handler", ["reads its body", "notices nothing"])
async def test_a_chunked_put_is_answered_when_the_server_ends(
    handler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "FINISH_SECONDS", 0.2)
    begun = anyio.Event()
    caplog.set_level(logging.INFO, logger="fabstir")

    async def put(request: Request) -> Response:
        begun.set()
        if handler == "notices nothing":
            await anyio.sleep_forever()
        return PlainTextResponse(str(len(await request.body())))

    listener = bind("127.0.0.1", 0, setting="x.port")
    port = listener.getsockname()[1]
    app = Starlette(routes=[Route("/put", put, methods=["PUT"])])
    with anyio.fail_after(20):
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            async with open_server(app, listener, max_frame_bytes=MAX_FRAME_BYTES):
                await client.send(
                    b"PUT /put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"5\r\nabcde\r\n"
                )
                await begun.wait()
            answer = await read_all(client)

    assert answer.startswith(b"HTTP/1.1 503 "), answer
    assert b"being stopped" in answer
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
