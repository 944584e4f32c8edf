"""Frames to a client that reads slowly, or nothing: nobody who puts one ever waits for it."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fabstir.doors import outgoing as module
from fabstir.doors.outgoing import MAX_CHARS, ROOM_CHARS, Outgoing
from fabstir.protocol.host_messages import Connected, Pong

pytestmark = pytest.mark.anyio


def nobody_waits() -> None:
    """Room that nobody waits for."""


async def test_frames_go_out_in_their_order() -> None:
    written: list[str] = []
    done = anyio.Event()

    async def write(text: str) -> None:
        await checkpoint()
        written.append(text)
        if len(written) == 3:
            done.set()

    outgoing = Outgoing(nobody_waits)
    outgoing.put([Connected("1"), Connected("2")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outgoing.run, write)
        outgoing.put([Connected("3")])
        with anyio.fail_after(5):
            await done.wait()
        tasks.cancel_scope.cancel()

    assert [text.count(str(n)) for n, text in enumerate(written, 1)] == [1, 1, 1]


async def test_who_waits_for_room_is_told_when_there_is_some() -> None:
    told, may_write = anyio.Event(), anyio.Event()

    async def write(_text: str) -> None:
        await may_write.wait()

    outgoing = Outgoing(told.set)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outgoing.run, write)
        outgoing.put([Connected("x" * ROOM_CHARS)])
        assert not outgoing.has_room
        assert not told.is_set()
        may_write.set()
        with anyio.fail_after(5):
            await told.wait()
        tasks.cancel_scope.cancel()

    assert outgoing.has_room


async def test_a_client_that_only_asks_and_never_reads_is_let_go() -> None:
    outgoing = Outgoing(nobody_waits)

    with pytest.raises(anyio.BrokenResourceError):
        for _ in range(MAX_CHARS):
            outgoing.put([Pong()])
    with pytest.raises(anyio.BrokenResourceError):
        outgoing.put([Pong()])


async def test_a_frame_that_does_not_fit_in_time_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_TIMEOUT", 0.05)
    outgoing = Outgoing(nobody_waits)
    outgoing.put([Pong()])

    async def write(_text: str) -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(5), pytest.raises(anyio.BrokenResourceError):
        await outgoing.run(write)
    with pytest.raises(anyio.BrokenResourceError):
        outgoing.put([Pong()])
