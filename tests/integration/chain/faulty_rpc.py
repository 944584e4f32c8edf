"""A real node behind a proxy that refuses what a test wants refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web

Refuse = Callable[[str, list[Any]], str | None]
"""From method and parameters to the text of the error, or None to let it through."""


@asynccontextmanager
async def open_faulty_rpc(upstream: str, refuse: Refuse) -> AsyncGenerator[str]:
    """Yields the proxy's URL."""
    async with ClientSession() as session:

        async def handle(request: web.Request) -> web.Response:
            call = await request.json()
            text = refuse(call["method"], call["params"])
            if text is not None:
                error = {"code": -32000, "message": text}
                return web.json_response({"jsonrpc": "2.0", "id": call["id"], "error": error})
            async with session.post(upstream, json=call) as response:
                return web.json_response(await response.json())

        app = web.Application()
        app.router.add_post("/", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/"
        finally:
            await runner.cleanup()
