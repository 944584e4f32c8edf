"""Tasks of one process that wait for one another."""

from __future__ import annotations

import anyio
import pytest

from fabstir.telemetry.waiting import Changes, KeyedLocks, Wakeup

pytestmark = pytest.mark.anyio


async def test_a_change_is_told_to_all_who_wait_and_to_nobody_afterwards() -> None:
    changes = Changes()
    told: list[str] = []

    async def wait(name: str) -> None:
        await changes.wait()
        told.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "first")
        tasks.start_soon(wait, "second")
        await anyio.wait_all_tasks_blocked()
        changes.tell()
    later = changes.next

    assert sorted(told) == ["first", "second"]
    assert not later.is_set()


async def test_no_change_between_looking_and_waiting_is_missed() -> None:
    changes = Changes()

    taken = changes.next
    changes.tell()

    with anyio.fail_after(1):
        await taken.wait()


async def test_who_is_awake_does_not_sleep_through_a_call() -> None:
    wakeup = Wakeup()

    wakeup.wake()
    wakeup.wake()

    assert await wakeup.sleep()
    assert not await wakeup.sleep(0)


async def test_a_sleeper_is_woken() -> None:
    wakeup = Wakeup()
    woken: list[bool] = []

    async def sleep() -> None:
        woken.append(await wakeup.sleep(10))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleep)
        await anyio.wait_all_tasks_blocked()
        wakeup.wake()

    assert woken == [True]


async def test_a_key_has_one_holder_and_another_key_waits_for_nobody() -> None:
    locks = KeyedLocks()
    held: list[str] = []

    async def hold(key: str, name: str) -> None:
        async with locks.hold(key):
            held.append(name)

    async with anyio.create_task_group() as tasks, locks.hold("a"):
        tasks.start_soon(hold, "a", "second of a")
        tasks.start_soon(hold, "b", "first of b")
        await anyio.wait_all_tasks_blocked()
        assert held == ["first of b"]
    assert held == ["first of b", "second of a"]


async def test_a_holder_that_is_cancelled_gives_its_key_back() -> None:
    locks = KeyedLocks()

    async def hold() -> None:
        async with locks.hold("a"):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        tasks.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    with anyio.fail_after(1):
        async with locks.hold("a"):
            pass
