"""An app that gives up waiting, by asyncio's own means: no receipt is lost, no host is accused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.sdk.renting import Renting, open_renting

from fabstir.sdk import AsyncAnswerStream, Message, SamplingParams

pytestmark = pytest.mark.anyio

WORDS = [f"w{number} " for number in range(5)]
"""Few enough for one receipt, the last: without it both sides go on from different places."""

HELLO = [Message("user", "Hello")]
ALL = SamplingParams(max_tokens=1000)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SlowJournal:
    """An agreement that takes until the app has given up on it.

    Args:
        goes_on_after: seconds from its beginning; None: when the test says so.
    """

    def __init__(self, renting: Renting, goes_on_after: float | None = None) -> None:
        self.has_begun, self.may_go_on = asyncio.Event(), asyncio.Event()
        self._goes_on_after = goes_on_after
        renting.rail.while_agreeing = self.wait

    async def wait(self) -> None:
        self.has_begun.set()
        if self._goes_on_after is not None:
            asyncio.get_running_loop().call_later(self._goes_on_after, self.may_go_on.set)
        await self.may_go_on.wait()


async def read_to_end(answer: AsyncAnswerStream) -> None:
    async for _ in answer:
        pass


async def test_a_task_that_is_cancelled_while_it_agrees_has_agreed(tmp_path: Path) -> None:
    async with open_renting(tmp_path, WORDS) as renting:
        journal = SlowJournal(renting)
        async with renting.session.chat(HELLO, sampling=ALL) as answer:
            reading = asyncio.create_task(read_to_end(answer))
            await journal.has_begun.wait()
            reading.cancel()
            await asyncio.sleep(0)
            reading.cancel()
            journal.may_go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await reading

            await answer.complete()
        async with renting.session.chat(HELLO, sampling=ALL) as next_one:
            await next_one.complete()

        assert answer.text == next_one.text == "".join(WORDS)
        assert renting.session.tokens == 2 * len(WORDS)


@pytest.mark.parametrize("milliseconds", [3, 10, 20])
async def test_so_has_one_whose_time_is_up(tmp_path: Path, milliseconds: int) -> None:
    async with open_renting(tmp_path, WORDS) as renting:
        journal = SlowJournal(renting, goes_on_after=2 * milliseconds / 1000)
        async with renting.session.chat(HELLO, sampling=ALL) as answer:
            reading = asyncio.create_task(read_to_end(answer))
            await journal.has_begun.wait()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reading, milliseconds / 1000)

            await answer.complete()
        async with renting.session.chat(HELLO, sampling=ALL) as next_one:
            await next_one.complete()

        assert answer.text == next_one.text == "".join(WORDS)
        assert renting.session.tokens == 2 * len(WORDS)


async def test_a_block_that_is_left_by_a_timeout_leaves_a_session_that_goes_on(
    tmp_path: Path,
) -> None:
    async with open_renting(tmp_path, WORDS) as renting:
        SlowJournal(renting, goes_on_after=0.03)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), renting.session.chat(HELLO, sampling=ALL) as answer:
                await answer.complete()
        async with renting.session.chat(HELLO, sampling=SamplingParams(max_tokens=3)) as next_one:
            text = await next_one.complete()

        assert text == "".join(WORDS[:3])


async def test_stop_after_the_end_is_no_mistake(tmp_path: Path) -> None:
    async with open_renting(tmp_path, WORDS[:3]) as renting:
        async with renting.session.chat(HELLO, sampling=ALL) as answer:
            await answer.complete()
            await answer.cancel()

        async with renting.session.chat(HELLO, sampling=ALL) as next_one:
            assert await next_one.complete() == answer.text
