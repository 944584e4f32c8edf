"""A real node behind a JSON-RPC server that alters what it answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from aiohttp import ClientSession, web

Answer = dict[str, Any]
Alter = Callable[[str, list[Any], Answer], Answer]
AlterAny = Callable[[str, list[Any], Answer], Answer | web.Response]
"""From method, parameters and the node's own answer to what is answered."""

KEY = "s3cr3t-k3y-0123456789"
"""Stands in the path, as providers' API keys do."""


@asynccontextmanager
async def open_altering_rpc(upstream: str, alter: AlterAny) -> AsyncGenerator[str]:
    """Yields the server's URL, which has KEY in it."""
    async with ClientSession() as session:

        async def handle(request: web.Request) -> web.Response:
            call = await request.json()
            async with session.post(upstream, json=call) as response:
                answer = await response.json()
            altered = alter(call["method"], call["params"], answer)
            return altered if isinstance(altered, web.Response) else web.json_response(altered)

        app = web.Application()
        app.router.add_post(f"/v2/{KEY}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/v2/{KEY}"
        finally:
            await runner.cleanup()


def replaced(method: str, result: Any) -> Alter:
    """Another result of one method, for ever."""

    def alter(asked: str, _params: list[Any], answer: Answer) -> Answer:
        return {**answer, "result": result} if asked == method else answer

    return alter


def refused(methods: set[str], code: Any, message: str = "no") -> Alter:
    """An error instead of these methods' results, for ever."""

    def alter(asked: str, _params: list[Any], answer: Answer) -> Answer:
        if asked not in methods:
            return answer
        return {"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": message}}

    return alter


def at_first(count: int, alter: Alter, counted: str) -> Alter:
    """Altered only the first `count` times that a method is asked for."""
    asked_so_far = 0

    def alter_first(asked: str, params: list[Any], answer: Answer) -> Answer:
        nonlocal asked_so_far
        asked_so_far += asked == counted
        is_altered = asked == counted and asked_so_far <= count
        return alter(asked, params, answer) if is_altered else answer

    return alter_first


NONSENSE: tuple[Any, ...] = (None, [], {}, "0x", 7, "0x" + "ff" * 600)


def mostly_nonsense() -> Alter:
    """Two of three answers are something else, in turn; a broadcast is let through, and so is
    what null would say something about: whether a transaction is there.
    """
    asked = count()

    def alter(method: str, _params: list[Any], answer: Answer) -> Answer:
        number = next(asked)
        if number % 3 == 0 or method == "eth_sendRawTransaction":
            return answer
        if number % 5 == 0:
            return {"id": 1, "error": {"code": -32007, "message": "50/second"}}
        odd = NONSENSE[number % len(NONSENSE)]
        if odd is None and method.startswith("eth_getTransaction"):
            return answer
        return {**answer, "result": odd}

    return alter
