"""Asking the host that runs on this machine: a Unix socket that only its owner can open.

The running host holds the journal and the wallet's nonces, so what other commands want of them,
they ask it for. One JSON object a line each way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import ChainError, FabstirError

_logger = logging.getLogger(__name__)

Command = Callable[[], Awaitable[Json]]

REQUEST_TIMEOUT = 5.0
"""Seconds for the asker to say what it wants."""

ANSWER_TIMEOUT = 300.0
"""Seconds for the answer: a withdrawal waits until it is mined."""

_MAX_LINE_BYTES = 1 << 20


def control_path(data_dir: Path) -> Path:
    """Where the host of this data folder listens."""
    return data_dir / "control.sock"


@asynccontextmanager
async def open_control(path: Path, commands: Mapping[str, Command]) -> AsyncGenerator[None]:
    """Answer for the length of the block. The journal's lock has shown that we are alone."""
    await anyio.Path(path).unlink(missing_ok=True)
    listener = await anyio.create_unix_listener(path, mode=0o600)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            try:
                with anyio.fail_after(REQUEST_TIMEOUT):
                    reader = BufferedByteReceiveStream(stream)
                    asked: Any = json.loads(await reader.receive_until(b"\n", _MAX_LINE_BYTES))
                reply = await _reply(commands, str(asked["command"]))
                await stream.send(json.dumps(reply).encode() + b"\n")
            except (anyio.IncompleteRead, anyio.BrokenResourceError, TimeoutError) as error:
                _logger.info("a control request broke off", extra={"reason": repr(error)})
            except (anyio.DelimiterNotFound, ValueError, KeyError, TypeError) as error:
                _logger.info("a control request was malformed", extra={"reason": repr(error)})

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.Path(path).unlink(missing_ok=True)


async def _reply(commands: Mapping[str, Command], name: str) -> Json:
    if name not in commands:
        return {"error": f"the running host knows no {name}: it is of another version"}
    try:
        return {"result": await commands[name]()}
    except FabstirError as error:
        return {"error": str(error)}


async def ask_running_host(data_dir: Path, command: str) -> Any:
    """What the running host answers; None if none runs here.

    Raises:
        ChainError: it could not do what it was asked to; the text is its own.
    """
    try:
        stream = await anyio.connect_unix(control_path(data_dir))
    except OSError:
        return None
    async with stream:
        await stream.send(json.dumps({"command": command}).encode() + b"\n")
        with anyio.fail_after(ANSWER_TIMEOUT):
            line = await BufferedByteReceiveStream(stream).receive_until(b"\n", _MAX_LINE_BYTES)
    reply: Any = json.loads(line)
    if "error" in reply:
        raise ChainError(str(reply["error"]))
    return reply["result"]
