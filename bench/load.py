"""The load process: asks the engine directly and through the host, in turn, and measures both."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

from fabstir.config import load_settings
from fabstir.engines._http import EngineAddress
from fabstir.engines._sse import EventDecoder
from fabstir.primitives.units import Wei
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import AsyncSession, Text, open_async_client

QUESTION = "Count from 1 to 200, one number a line, and write nothing else."
RULES = "write digits alone, each number on a line of its own, no word before or behind them."
SYSTEM = {"direct": f"Asked directly, {RULES}", "host": f"Through a host, {RULES}"}
"""Each way has its own prompt in the engine's cache: none finds what the other one left. They
differ at their very beginning, else the server would put one over the other as a similar one."""

DEPOSIT = Wei(10**15)

Ask = Callable[[int], Awaitable[tuple[float, int]]]
"""Stream number to (seconds to the first token, tokens)."""


async def ask_engine(address: EngineAddress, num_tokens: int) -> tuple[float, int]:
    """One completion from the engine's own chat endpoint, each event read as it comes."""
    body = {
        "messages": [
            {"role": "system", "content": SYSTEM["direct"]},
            {"role": "user", "content": QUESTION},
        ],
        "max_tokens": num_tokens,
        "stream": True,
        "temperature": 0,
        "cache_prompt": True,
    }
    started, first, count = time.perf_counter(), 0.0, 0
    decoder = EventDecoder()
    async with address.stream("POST", "/v1/chat/completions", body) as response:
        while data := await response.receive():
            for payload in decoder.feed(data):
                if payload == b"[DONE]":
                    return first, count
                choices: Any = json.loads(payload)["choices"]
                if choices and choices[0]["delta"].get("content"):
                    first = first or time.perf_counter() - started
                    count += 1
    return first, count


async def ask_host(session: AsyncSession, num_tokens: int) -> tuple[float, int]:
    """One completion through the host, with every receipt verified and acknowledged."""
    sampling = SamplingParams(max_tokens=num_tokens, temperature=0)
    started, first, count = time.perf_counter(), 0.0, 0
    messages = [Message("system", SYSTEM["host"]), Message("user", QUESTION)]
    async with session.chat(messages, sampling=sampling) as answer:
        async for event in answer:
            if isinstance(event, Text):
                first = first or time.perf_counter() - started
                count += event.num_tokens
    return first, count


@dataclass(slots=True)
class Round:
    """One way, all streams at once.

    Attributes:
        began, ended: on the machine's monotonic clock, which the host's process shares.
        ttft: seconds to the first token, of each stream.
        cpu: seconds of processor of this process.
    """

    began: float
    ended: float
    ttft: list[float]
    num_tokens: int
    cpu: float


async def one_round(streams: int, ask: Ask) -> Round:
    """Ask on all streams at once."""
    results: list[tuple[float, int]] = []

    async def run(number: int) -> None:
        results.append(await ask(number))

    began, cpu = time.monotonic(), time.process_time()
    async with anyio.create_task_group() as tasks:
        for number in range(streams):
            tasks.start_soon(run, number)
    return Round(
        began=began,
        ended=time.monotonic(),
        ttft=[ttft for ttft, _ in results],
        num_tokens=sum(count for _, count in results),
        cpu=time.process_time() - cpu,
    )


async def measure(orders: dict[str, Any]) -> list[dict[str, Any]]:
    """All numbers of streams, both ways in turn."""
    address = EngineAddress(
        orders["engine_host"], orders["engine_port"], api_key=orders["engine_key"]
    )
    settings = load_settings(
        file=Path(orders["renter_config"]), environ={}, overrides=orders["overrides"]
    )
    num_tokens: int = orders["num_tokens"]
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_async_client(settings))
        print("opening sessions", file=sys.stderr)
        (offer, *_others) = await client.find_hosts()
        sessions = [
            await stack.enter_async_context(client.open_session(offer, deposit=DEPOSIT))
            for _ in range(max(orders["streams"]))
        ]
        ways: dict[str, Ask] = {
            "direct": lambda _number: ask_engine(address, num_tokens),
            "host": lambda number: ask_host(sessions[number], num_tokens),
        }
        for streams in orders["streams"]:
            print(f"measuring {streams} streams", file=sys.stderr)
            row: dict[str, Any] = {"streams": streams}
            for name, ask in ways.items():
                await one_round(streams, ask)  # warm: connections, prompt cache
                row[name] = []
            for _ in range(orders["num_rounds"]):
                for name, ask in ways.items():
                    row[name].append(asdict(await one_round(streams, ask)))
            rows.append(row)
        for session in sessions:
            await session.close(now=True)
    return rows


if __name__ == "__main__":
    orders = json.loads(sys.stdin.read())
    print(json.dumps(anyio.run(measure, orders, backend_options={"use_uvloop": True})))
