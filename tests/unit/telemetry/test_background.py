"""A step that is not given up, whoever cancels."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from fabstir.telemetry.background import to_its_end

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Step:
    """Goes on when the test says so."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.is_done = False

    async def run(self) -> str:
        self.has_begun.set()
        await self.may_end.wait()
        self.is_done = True
        return "done"


async def test_a_task_that_is_cancelled_again_and_again_is_cancelled_after_the_step() -> None:
    step = Step()
    task = asyncio.create_task(to_its_end(step.run()))
    await step.has_begun.wait()

    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    step.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert step.is_done


async def test_so_is_a_scope() -> None:
    step = Step()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(to_its_end, step.run())
            await step.has_begun.wait()
            scope.cancel()
            step.may_end.set()

    assert step.is_done


async def test_a_timeout_of_asyncio_is_heard_as_one() -> None:
    step = Step()
    asyncio.get_running_loop().call_later(0.03, step.may_end.set)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await to_its_end(step.run())

    assert step.is_done


async def test_its_result_and_its_error_are_the_steps_own() -> None:
    step = Step()
    step.may_end.set()

    async def fail() -> None:
        raise KeyError("its own")

    assert await to_its_end(step.run()) == "done"
    with pytest.raises(KeyError, match="its own"):
        await to_its_end(fail())
