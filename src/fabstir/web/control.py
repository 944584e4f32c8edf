"""Asking what runs on this machine: a Unix socket that only its owner can open.

A running node holds the journal and the wallet's nonces, and its store; so what other commands
want of them, they ask it for. One JSON object a line each way; before the answer may come lines
that say how far it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Listener, SocketStream, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from fabstir.primitives.encoding import Json, parse_json
from fabstir.primitives.errors import (
    AccessDenied,
    ChainError,
    ConfigError,
    FabstirError,
    NotFound,
    PathRefused,
    StorageError,
    StorageFull,
)
from fabstir.protocol.fields import Fields

_logger = logging.getLogger(__name__)

ReportProgress = Callable[[Json], Awaitable[None]]
"""Tells the asker how far a command is."""


async def _unheard(_progress: Json) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its arguments, and who hears how far it is."""

    arguments: Fields = field(default_factory=lambda: Fields({}, "the request"))
    report: ReportProgress = _unheard


Command = Callable[[Asked], Awaitable[Json]]

REQUEST_TIMEOUT = 5.0
"""Seconds for the asker to say what it wants."""

ANSWER_TIMEOUT = 300.0
"""Seconds until the answer, or the next word of progress: a withdrawal waits until it is mined."""

EXHAUSTED_PAUSE = 0.5
"""Seconds between two attempts to accept while this process has no descriptor left."""

MAX_REQUEST_BYTES = 1 << 20
MAX_REQUEST_DEPTH = 16
"""Deepest nesting of a request; a command and its arguments have three levels."""
MAX_REPLY_BYTES = 8 << 20
"""A page of 1,000 names of 1 KiB each, whatever their letters, takes less."""

_MAX_NAME_CHARS = 64
_SHOWN_CHARS = 200
"""Of a path that an error repeats."""

MAX_SOCKET_PATH_BYTES = 107
"""What the address of a Unix socket holds on Linux."""

_KINDS: dict[str, type[FabstirError]] = {
    kind.__name__: kind
    for kind in (
        *(ConfigError, NotFound, PathRefused, StorageFull, AccessDenied, StorageError),
        *(ChainError, FabstirError),
    )
}
"""Errors that come out on the asker's side as what they were, by their names."""


def control_path(data_dir: Path) -> Path:
    """Where the host of this data folder listens."""
    return data_dir / "control.sock"


@asynccontextmanager
async def open_control(path: Path, commands: Mapping[str, Command]) -> AsyncGenerator[None]:
    """Answer for the length of the block. The folder's lock has shown that we are alone.

    Raises:
        ConfigError: the path is longer than a socket's may be.
    """
    if len(bytes(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{path} is too long for a socket ({MAX_SOCKET_PATH_BYTES} bytes at most): set "
            "paths.data_dir, or s5.folder, to a shorter path"
        )
    await anyio.Path(path).unlink(missing_ok=True)
    listener = await anyio.create_unix_listener(path, mode=0o600)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            try:
                await _answer(commands, stream)
            except (anyio.IncompleteRead, anyio.BrokenResourceError, TimeoutError) as error:
                _logger.info("a control request broke off", extra={"reason": repr(error)})
            except anyio.DelimiterNotFound as error:
                _logger.info("a control request was malformed", extra={"reason": repr(error)})
            except Exception:
                # One connection's trouble, and all others' listener.
                _logger.exception("a control request failed")

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(_serve, listener, answer, tasks)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.Path(path).unlink(missing_ok=True)


async def _serve(
    listener: Listener[SocketStream],
    answer: Callable[[SocketStream], Awaitable[None]],
    tasks: TaskGroup,
) -> None:
    """Until cancelled, also behind a time without descriptors."""
    while True:
        try:
            await listener.serve(answer, tasks)
        except OSError as error:
            _logger.warning("cannot accept a control request", extra={"reason": str(error)})
            await anyio.sleep(EXHAUSTED_PAUSE)


async def _answer(commands: Mapping[str, Command], stream: SocketStream) -> None:
    with anyio.fail_after(REQUEST_TIMEOUT):
        reader = BufferedByteReceiveStream(stream)
        line = await reader.receive_until(b"\n", MAX_REQUEST_BYTES)
    try:
        request = Fields.of(parse_json(line, max_depth=MAX_REQUEST_DEPTH), "the request")
        name = request.text("command", limit=_MAX_NAME_CHARS)
        arguments = Fields.of(request.get("arguments") or {}, "the request")
    except (ValueError, FabstirError) as error:
        # What writes this is none of our commands, and would not know what to do with an answer.
        _logger.info("a control request was malformed", extra={"reason": repr(error)})
        return
    await _send(stream, await _reply(commands, name, arguments, stream))


async def _send(stream: SocketStream, line: Json) -> None:
    with anyio.fail_after(ANSWER_TIMEOUT):  # an asker that was stopped reads nothing
        await stream.send(json.dumps(line).encode() + b"\n")


async def _reply(
    commands: Mapping[str, Command], name: str, arguments: Fields, stream: SocketStream
) -> Json:
    if name not in commands:
        return {"error": f"the running node knows no {name}: it is of another version"}
    has_left = False

    async def report(progress: Json) -> None:
        nonlocal has_left
        try:
            await _send(stream, {"progress": progress})
        except (anyio.BrokenResourceError, TimeoutError):
            has_left = True
            raise

    try:
        return {"result": await commands[name](Asked(arguments, report))}
    except FabstirError as error:
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS)
        return {"error": str(error), "kind": kind}
    except OSError as error:
        _logger.warning("a command failed", exc_info=True, extra={"command": name})
        return {"error": _of_the_system(error), "kind": StorageError.__name__}
    except Exception as error:
        if has_left:
            raise
        _logger.exception("a command failed", extra={"command": name})
        return {
            "error": f"{name} failed inside the running node ({type(error).__name__}): its log "
            "says where, and it goes on"
        }


def _of_the_system(error: OSError) -> str:
    where = "" if error.filename is None else f"{ascii(error.filename)[:_SHOWN_CHARS]}: "
    return f"{where}{error.strerror or type(error).__name__}"


async def ask_running_host(data_dir: Path, command: str) -> Any:
    """What the running host answers; None if none runs here.

    Raises:
        FabstirError: it could not do what it was asked to; type and text are its own.
    """
    return await ask(control_path(data_dir), command)


async def ask(
    path: Path,
    command: str,
    arguments: Mapping[str, Json] | None = None,
    on_progress: Callable[[Any], None] | None = None,
) -> Any:
    """What whoever listens at `path` answers; None if nobody does.

    Args:
        on_progress: called with each word of progress.

    Raises:
        FabstirError: it could not do what it was asked to (type and text are its own), or it
            ended or said nothing for ANSWER_TIMEOUT.
    """
    try:
        stream = await anyio.connect_unix(path)
    except OSError:
        return None
    async with stream:
        request: Json = {"command": command, "arguments": dict(arguments or {})}
        await _send(stream, request)
        reader = BufferedByteReceiveStream(stream)
        while "progress" in (reply := await _next_reply(reader)):
            if on_progress is not None:
                on_progress(reply["progress"])
    if "error" in reply:
        raise _KINDS.get(reply.get("kind", ""), FabstirError)(str(reply["error"]))
    return reply["result"]


async def _next_reply(reader: BufferedByteReceiveStream) -> Any:
    try:
        with anyio.fail_after(ANSWER_TIMEOUT):
            return json.loads(await reader.receive_until(b"\n", MAX_REPLY_BYTES))
    except (anyio.IncompleteRead, anyio.BrokenResourceError, TimeoutError) as error:
        raise FabstirError(
            "the running node broke off: look at its log, and ask again once it runs"
        ) from error
