from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio

from fabstir.p2p._bridge import open_bridge
from fabstir.primitives.errors import ConfigError, PeerError

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


class Service:
    """Lives on the trio thread."""

    def __init__(self) -> None:
        self.thread = threading.current_thread().name
        self.crash = trio.Event()
        self.was_cancelled = trio.Event()
        self.is_closed = False

    async def double(self, number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number * 2

    async def hang(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.was_cancelled.set()


@asynccontextmanager
async def open_service() -> AsyncGenerator[Service]:
    service = Service()

    async def crash_when_told() -> None:
        await service.crash.wait()
        raise RuntimeError("a bug on the trio side")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crash_when_told)
        try:
            yield service
        finally:
            service.is_closed = True
        tasks.cancel_scope.cancel()


def libp2p_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "libp2p"]


async def test_a_call_runs_on_the_other_thread() -> None:
    async def thread_name(service: Service) -> str:
        return service.thread

    async with open_bridge(open_service) as bridge:
        assert await bridge.call(lambda service: service.double(21), timeout=5) == 42
        assert await bridge.call(thread_name, timeout=5) == "libp2p"


async def test_many_calls_at_once_get_their_own_results() -> None:
    async with open_bridge(open_service) as bridge:
        results = await asyncio.gather(
            *(bridge.call(lambda service, n=n: service.double(n), timeout=5) for n in range(200))
        )

    assert results == [n * 2 for n in range(200)]


async def test_an_error_comes_back_as_it_is() -> None:
    async def fail(_service: Service) -> None:
        raise PeerError("no")

    async with open_bridge(open_service) as bridge:
        with pytest.raises(PeerError, match=r"^no$"):
            await bridge.call(fail, timeout=5)

        assert await bridge.call(lambda service: service.double(1), timeout=5) == 2


async def test_the_timeout_cancels_the_call_there() -> None:
    async with open_bridge(open_service) as bridge:
        with pytest.raises(TimeoutError):
            await bridge.call(Service.hang, timeout=0.05)

        await bridge.call(lambda service: service.was_cancelled.wait(), timeout=5)


async def test_cancelling_the_caller_cancels_the_call_there() -> None:
    async with open_bridge(open_service) as bridge:
        hanging = anyio.Event()
        loop = asyncio.get_running_loop()

        async def hang(service: Service) -> None:
            loop.call_soon_threadsafe(hanging.set)
            await service.hang()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: bridge.call(hang, timeout=60))
            await hanging.wait()
            tasks.cancel_scope.cancel()

        await bridge.call(lambda service: service.was_cancelled.wait(), timeout=5)


async def test_leaving_closes_the_service_and_ends_the_thread() -> None:
    async def itself(service: Service) -> Service:
        return service

    async with open_bridge(open_service) as bridge:
        service = await bridge.call(itself, timeout=5)
        assert libp2p_threads()

    assert service.is_closed
    assert not libp2p_threads()


async def test_a_call_after_the_end_is_an_error() -> None:
    async with open_bridge(open_service) as bridge:
        pass

    with pytest.raises(PeerError, match="has stopped"):
        await bridge.call(Service.hang, timeout=5)


async def test_an_error_at_start_comes_out_bare() -> None:
    @asynccontextmanager
    async def refuse() -> AsyncGenerator[Service]:
        async with anyio.create_task_group():
            raise ConfigError("port 9000 is taken")
        yield Service()

    with pytest.raises(ConfigError, match="taken"):
        async with open_bridge(refuse):
            pytest.fail("the block must not be entered")

    assert not libp2p_threads()


async def test_a_crash_on_the_thread_comes_out_of_the_block() -> None:
    async def crash(service: Service) -> None:
        service.crash.set()

    with pytest.raises(ExceptionGroup) as caught:
        async with open_bridge(open_service) as bridge:
            await bridge.call(crash, timeout=5)
            await anyio.sleep_forever()

    assert caught.group_contains(RuntimeError, match="a bug on the trio side")
    assert not libp2p_threads()


async def test_a_crash_ends_the_calls_in_flight() -> None:
    async def crash(service: Service) -> None:
        service.crash.set()
        await service.hang()

    with pytest.raises(ExceptionGroup) as caught:
        async with open_bridge(open_service) as bridge:
            await bridge.call(crash, timeout=60)

    assert caught.group_contains(RuntimeError)
    assert not libp2p_threads()


async def test_cancelling_the_block_ends_the_thread() -> None:
    with anyio.move_on_after(0.05):
        async with open_bridge(open_service):
            await anyio.sleep_forever()

    assert not libp2p_threads()
