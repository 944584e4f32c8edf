"""A supervised task outlives what the machine does to it, and says so."""

from __future__ import annotations

import errno

import anyio
import pytest

from fabstir.primitives.errors import ChainError, StorageError
from fabstir.telemetry.supervision import STEADY_SECONDS, Supervision

pytestmark = pytest.mark.anyio


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EMFILE, "Too many open files"), ChainError("no answer"), StorageError("full")],
)
async def test_it_is_started_again(failure: Exception) -> None:
    clock = Clock()
    supervision = Supervision(first_delay=0.001, clock=clock)
    num_starts = 0

    async def task() -> None:
        nonlocal num_starts
        num_starts += 1
        if num_starts < 4:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail)

    async def fail() -> None:
        raise failure

    await supervision.keep("settlement", task)

    assert num_starts == 4
    assert str(failure) in supervision.complaints()[0]
    assert (await supervision.check()).status == "degraded"
    clock.now += STEADY_SECONDS + 1
    assert supervision.complaints() == ()
    assert (await supervision.check()).status == "ok"


async def test_a_bug_comes_out() -> None:
    async def task() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await Supervision().keep("settlement", task)
