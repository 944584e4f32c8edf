"""What a WebSocket may send before it is known whose it is, and how long anything may take."""

from __future__ import annotations

import logging
import time

import anyio
import pytest
from tests.integration.web.served import (
    MAX_FRAME_BYTES,
    frame,
    open_served,
    read_all,
    read_close,
    upgrade_head,
)

from fabstir.web.inbound import connections, server, websocket_protocol

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PING = bytes([0x89, 0x80]) + bytes(4)


async def test_a_stranger_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_protocol, "OPENING_SECONDS", 0.3)
    async with open_served() as served, await served.upgrade("/ws") as stream:
        for _ in range(3):
            await stream.send(PING + frame(b"hello"))
            await anyio.sleep(0.05)

        code, reason = await read_close(stream)

    assert code == 1008
    assert "0.3 s" in reason


async def test_who_is_known_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_protocol, "OPENING_SECONDS", 0.2)
    async with open_served() as served, await served.upgrade("/ws") as stream:
        await stream.send(frame(b"mine"))
        await stream.receive()
        await anyio.sleep(0.4)

        await stream.send(frame(b"hello"))

        assert (await stream.receive()).endswith(b"5")


async def test_who_is_known_no_more_has_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_protocol, "OPENING_SECONDS", 0.3)
    length = websocket_protocol.OPENING_FRAME_BYTES + 1
    async with open_served() as served:
        streams = [await served.upgrade("/ws") for _ in range(3)]
        for stream in streams:
            for text in (b"mine", b"gone"):
                await stream.send(frame(text))
                await stream.receive()
        await streams[0].send(frame(b"mine"))
        await streams[0].receive()
        await streams[1].send(frame(b"", length=length))

        assert (await read_close(streams[1]))[0] == 1009, "frames are short again"
        code, reason = await read_close(streams[2])
        assert (code, "0.3 s" in reason) == (1008, True)
        await streams[0].send(frame(b"x" * length))
        assert str(length).encode() in await streams[0].receive(), "it was shown again"


async def test_what_http_has_shown_is_not_the_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_protocol, "OPENING_SECONDS", 0.3)
    async with open_served() as served, await served.open() as stream:
        await stream.send(b"GET /mine HTTP/1.1\r\nHost: x\r\n\r\n")
        await stream.receive()
        await stream.send(upgrade_head("/ws"))
        assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        await stream.send(frame(b"mine"))
        await stream.receive()
        await anyio.sleep(0.5)

        await stream.send(frame(b"hello"))

        assert (await stream.receive()).endswith(b"5"), "what the WebSocket has shown counts"


@pytest.mark.parametrize("has_all", [False, True])
async def test_strangers_send_short_messages(has_all: bool) -> None:
    length = websocket_protocol.OPENING_FRAME_BYTES + 1
    async with open_served() as served:
        async with await served.upgrade("/ws") as stream:
            await stream.send(frame(bytes(length if has_all else 0), length=length))

            code, _reason = await read_close(stream)

        assert served.application.messages == []
    assert code in ({1009} if not has_all else {1009, 0})  # 0: reset over unread bytes


async def test_fragments_count_together() -> None:
    async with open_served() as served, await served.upgrade("/ws") as stream:
        await stream.send(frame(bytes(40_000), fin=False))
        await stream.send(frame(b"", opcode=0, length=40_000, fin=False))

        assert (await read_close(stream))[0] == 1009


async def test_who_is_known_sends_long_ones() -> None:
    async with open_served() as served, await served.upgrade("/ws") as stream:
        await stream.send(frame(b"mine"))
        await stream.receive()

        await stream.send(frame(b"x" * MAX_FRAME_BYTES))
        with anyio.fail_after(5):
            assert str(MAX_FRAME_BYTES).encode() in await stream.receive()
        await stream.send(frame(b"", length=MAX_FRAME_BYTES + 1))
        assert (await read_close(stream))[0] == 1009


async def test_a_message_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_protocol, "MESSAGE_SECONDS", 0.2)
    async with open_served() as served, await served.upgrade("/ws") as stream:
        await stream.send(frame(b"mine"))
        await stream.receive()
        await stream.send(frame(b"half", length=1000))

        code, reason = await read_close(stream)

    assert (code, "message" in reason) == (1008, True)


async def test_unfinished_messages_of_all_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_UNFINISHED_BYTES", 1_700_000)
    async with open_served() as served:
        streams = [await served.upgrade("/ws") for _ in range(3)]
        for stream in streams:
            await stream.send(frame(b"mine"))
            await stream.receive()
            await stream.send(frame(bytes(600_000), length=MAX_FRAME_BYTES))
            await anyio.sleep(0.05)

        assert await read_all(streams[0]) == b"", "the oldest is cut"
        assert len(served.connections) == 2
        for stream in streams[1:]:
            await stream.send(bytes(MAX_FRAME_BYTES - 600_000))
            with anyio.fail_after(5):
                assert str(MAX_FRAME_BYTES).encode() in await stream.receive()


async def test_tiny_frames_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FRAMES_BURST", 500)
    async with open_served() as served:
        stream = await served.upgrade("/ws")
        await stream.send(PING * 40_000)
        waits: list[float] = []
        for _ in range(20):
            started = time.monotonic()
            await served.get("/hello", source="127.0.0.2")
            waits.append(time.monotonic() - started)

    assert sorted(waits)[15] < 0.1


async def test_an_upgrade_that_is_none_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    heads = [
        upgrade_head("/ws", "POST"),
        upgrade_head("/ws").replace(b"Key:", b"Kee:"),
        upgrade_head("/ws").replace(b"Host: x\r\n", b"Host: x\r\nX: " + b"y" * 9000 + b"\r\n"),
        upgrade_head("/ws").replace(b"Host: x\r\n", b"Host: x\r\nX: \xff\xfe\r\n"),
        upgrade_head("/ws").replace(b"Host: x\r\n", b"Host: x\r\n" + b"X: y\r\n" * 300),
        upgrade_head("/ws").replace(b"HTTP/1.1", b"HTTP/1.0"),
        upgrade_head("/nowhere"),
        upgrade_head("/%ff%fe"),
    ]
    async with open_served() as served:
        for head in heads:
            async with await served.open() as stream:
                await stream.send(head)
                with anyio.fail_after(3):
                    answer = await stream.receive()
                assert answer.startswith(b"HTTP/1.1 "), head

    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"\xff\xfe"), 1007),
        (frame(b"\xff", fin=False) + frame(b"\xfe", opcode=0), 1007),
        (frame(b"x", opcode=0), 1002),
        (frame(b"x", opcode=3), 1002),
        (b"\x81\x01x", 1002),
    ],
)
async def test_broken_frames_are_no_errors_of_ours(
    caplog: pytest.LogCaptureFixture, sent: bytes, code: int
) -> None:
    async with open_served() as served, await served.upgrade("/ws") as stream:
        await stream.send(sent)
        assert (await read_close(stream))[0] == code

    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_a_long_message_on_a_slow_line_is_not_cut_by_a_ping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(server, "PING_TIMEOUT", 0.4)
    async with open_served() as served, await served.upgrade("/ws") as stream:
        message = frame(b"x" * 15_000)
        for start in range(0, len(message), 1000):  # no pong comes between
            await stream.send(message[start : start + 1000])
            await anyio.sleep(0.1)

        code, reason = await read_close(stream)  # nothing comes any more

        assert [len(text) for text in served.application.messages] == [15_000]
    assert (code, reason) == (1011, "keepalive ping timeout")
