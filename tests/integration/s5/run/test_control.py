"""Commands ask what runs on this machine over its control socket."""

import errno
import os
import stat
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import ConfigError, FabstirError, NotFound, PortalUnavailable
from fabstir.web.control import Asked, Command, ask, open_control

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def count(asked: Asked) -> Json:
    """Says each number, then their sum."""
    until = asked.arguments.integer("until")
    for number in range(until):
        await asked.report({"done": number})
    return sum(range(until))


async def lose(asked: Asked) -> Json:
    raise NotFound(f"no such file: {asked.arguments.text('path')}")


async def fail(_asked: Asked) -> Json:
    raise PortalUnavailable("http://portal.example", "it does not answer")


async def too_long(_asked: Asked) -> Json:
    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "/far/away")


async def no_value(_asked: Asked) -> Json:
    return int("no number")


async def too_deep(_asked: Asked) -> Json:
    raise RecursionError


async def grouped(asked: Asked) -> Json:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(no_value, asked)
    return None


COMMANDS: dict[str, Command] = {
    "count": count,
    "lose": lose,
    "fail": fail,
    "no name": too_long,
    "no value": no_value,
    "too deep": too_deep,
    "grouped": grouped,
}


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncGenerator[Path]:
    path = tmp_path / "control.sock"
    async with open_control(path, COMMANDS):
        yield path


async def test_an_answer_comes_after_its_progress(socket: Path) -> None:
    seen: list[Any] = []

    answer = await ask(socket, "count", {"until": 3}, seen.append)

    assert answer == 3
    assert seen == [{"done": 0}, {"done": 1}, {"done": 2}]


async def test_errors_keep_their_type_or_that_of_an_ancestor(socket: Path) -> None:
    with pytest.raises(NotFound, match=r"no such file: a/b"):
        await ask(socket, "lose", {"path": "a/b"})
    with pytest.raises(FabstirError, match=r"http://portal.example: it does not answer") as caught:
        await ask(socket, "fail")

    assert type(caught.value).__name__ == "StorageError"


async def test_a_command_of_another_version_and_wrong_arguments_are_said(socket: Path) -> None:
    with pytest.raises(FabstirError, match="knows no dance"):
        await ask(socket, "dance")
    with pytest.raises(FabstirError, match="until must be an unsigned integer"):
        await ask(socket, "count", {"until": "many"})


async def test_garbage_is_survived_and_only_the_owner_may_ask(socket: Path) -> None:
    async with await anyio.connect_unix(socket) as stream:
        await stream.send(b'"no object"\n')
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()

    assert await ask(socket, "count", {"until": 2}) == 1
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000 + b"\n",
        b'{"command": ' + b'{"a": ' * 50_000 + b"\n",
        b'{"command": "count", "arguments": ' + b"[" * 500_000 + b"\n",
        b'{"command": "count", "arguments": 7}\n',
        b'{"command": ["count"]}\n',
        b'{"command": NaN}\n',
        b"\xff\xfe\n",
        b"\n",
        b"7\n",
        b"x" * (1 << 20) + b"yz\n",
        b"no end",
    ],
    ids=lambda line: repr(line[:24]),
)
async def test_no_request_ends_the_listener(socket: Path, line: bytes) -> None:
    async with await anyio.connect_unix(socket) as stream:
        with suppress(anyio.BrokenResourceError):
            await stream.send(line)
            await stream.send_eof()
            with suppress(anyio.EndOfStream):
                await stream.receive()

    assert await ask(socket, "count", {"until": 2}) == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no name", "/far/away.*: File name too long"),
        ("no value", "no value failed inside the running node .ValueError"),
        ("too deep", "too deep failed inside the running node .RecursionError"),
        ("grouped", "grouped failed inside the running node .ExceptionGroup"),
    ],
)
async def test_a_command_that_fails_in_any_way_is_answered(
    socket: Path, command: str, said: str
) -> None:
    with pytest.raises(FabstirError, match=said):
        await ask(socket, command)

    assert await ask(socket, "count", {"until": 2}) == 1


async def test_an_asker_that_leaves_takes_nobody_along(socket: Path) -> None:
    for _ in range(3):
        async with await anyio.connect_unix(socket) as stream:
            await stream.send(b'{"command": "count", "arguments": {"until": 100000}}\n')
            await stream.receive()

    assert await ask(socket, "count", {"until": 2}) == 1


async def test_nobody_answers_where_nobody_runs(tmp_path: Path) -> None:
    assert await ask(tmp_path / "control.sock", "count") is None


async def test_a_path_that_no_socket_can_have_is_a_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too long for a socket.*s5\.folder"):
        async with open_control(tmp_path / ("x" * 100) / "control.sock", {}):
            pass
