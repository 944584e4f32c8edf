"""`fabstir` as a process of its own that need not import anything: see `tests/fork_server.py`.

    async with await open_forked(["serve", "--yes"], stderr=log) as process: ...
    done = await run_forked(["hosts", "--json"])

A test whose subject is the start itself (the installed command, closed streams, what is imported)
starts `python -m fabstir` or the console script instead; one whose subject is what Python makes of
a locale gives its commands a server that was started in it (`fork_server`).
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import IO, TypeAlias

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from tests.fork_server import Request

SERVER = Path(__file__).with_name("fork_server.py")

PRELOADED = (
    *("fabstir.node.build", "fabstir.s5.run", "fabstir.sdk.client", "fabstir.sdk.money"),
    # What they and `fabstir.cli` import only when it is used.
    *("anyio._backends._asyncio", "anyio._backends._trio", "eth_hash.backends.pycryptodome"),
    *("multiaddr.codecs.cid", "rich.progress", "rich.status", "rich.table", "typer.rich_utils"),
    *("uvicorn.lifespan.off", "uvloop"),
)
"""Not `fabstir.cli`: what it makes on import looks at the terminal and the environment."""

Stream: TypeAlias = "int | IO[bytes] | IO[str] | None"
"""As `subprocess` has it: PIPE, DEVNULL, STDOUT, a descriptor, a file; None: this process's own."""


class Forked:
    """A child of the fork server, from where blocking is allowed."""

    def __init__(self, pid: int, report: int, pipes: Mapping[int, int]) -> None:
        self.pid = pid
        self.report = report
        """Readable once it has ended."""
        self.pipes = pipes
        """Our ends, by the number that the other end has in the child; whoever uses one closes it.
        """
        self._returncode: int | None = None
        weakref.finalize(self, os.close, report)

    def poll(self) -> int | None:
        """The exit status (of a signal: its negative number), or None while it runs."""
        return self._look(timeout=0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutError: it runs for longer than so many seconds."""
        code = self._look(timeout)
        if code is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
        return code

    def send_signal(self, number: int) -> None:
        """To a process that has ended: nothing, for its id may be another's."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self._returncode is None:
            poll = select.poll()
            poll.register(self.report, select.POLLIN)
            if poll.poll(None if timeout is None else timeout * 1000):
                self._returncode = _read_number(self.report)
        return self._returncode


def fork(
    arguments: Sequence[str],
    *,
    stdin: Stream = PIPE,
    stdout: Stream = PIPE,
    stderr: Stream = PIPE,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    is_new_session: bool = False,
    max_open_files: int | None = None,
    server: socket.socket | None = None,
) -> Forked:
    """Start `fabstir` with these arguments. A file that is given stays the caller's.

    Args:
        environment: all of it, and `folder` where it works; None: as this process.
        server: of `fork_server`; None: this process's own.
    """
    request = Request(
        arguments=list(arguments),
        environment=dict(os.environ if environment is None else environment),
        folder=str(folder or Path.cwd()),
        is_new_session=is_new_session,
        max_open_files=max_open_files,
    )
    report, reporting = os.pipe()
    theirs, ours = [reporting], dict[int, int]()
    try:
        for number, stream in enumerate((stdin, stdout, stderr)):
            if stream == PIPE:
                reading, writing = os.pipe()
                ours[number] = writing if number == 0 else reading
                theirs.append(reading if number == 0 else writing)
            else:
                theirs.append(os.dup(_descriptor(number, stream, theirs)))
        socket.send_fds(server or _server(), [json.dumps(request).encode()], theirs)
    finally:
        for fd in theirs:
            os.close(fd)
    return Forked(_read_number(report), report, ours)


def _descriptor(number: int, stream: Stream, theirs: Sequence[int]) -> int:
    """What a child gets for its standard stream of this number."""
    match stream:
        case None:
            return number
        case int() if stream == DEVNULL:
            return _null()
        case int() if stream == STDOUT:
            return theirs[2]
        case int():
            return stream
        case _:
            return stream.fileno()


@cache
def _null() -> int:
    return os.open(os.devnull, os.O_RDWR)


@cache
def _server() -> socket.socket:
    """Of this process; it ends when this does, however that is."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(fork_server(PRELOADED, os.environ))


@contextmanager
def fork_server(modules: Sequence[str], environment: Mapping[str, str]) -> Generator[socket.socket]:
    """A server for the length of the block.

    Args:
        modules: what it imports.
        environment: in which its Python starts: what that makes of a locale, its children keep.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", SERVER, str(theirs.fileno()), *modules],
            stdin=DEVNULL,
            stdout=DEVNULL,
            pass_fds=[theirs.fileno()],
            # More than one, and numpy starts threads.
            env={**environment, "OPENBLAS_NUM_THREADS": "1"},
        )
    try:
        yield ours
    finally:
        ours.close()
        process.wait()


def _read_number(report: int) -> int:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(report, 1)
        assert piece, "the fork server has ended: see what it wrote on standard error"
        line += piece
    return int(line)


# -- from async code ----------------------------------------------------------------------------


class ForkedProcess(Process):
    """A child of the fork server, as `anyio.open_process` gives one."""

    def __init__(self, forked: Forked) -> None:
        pipes = forked.pipes
        self._forked = forked
        self._stdin = _PipeIn(pipes[0]) if 0 in pipes else None
        self._stdout = _PipeOut(pipes[1]) if 1 in pipes else None
        self._stderr = _PipeOut(pipes[2]) if 2 in pipes else None
        self._one_waits = anyio.Lock()

    async def wait(self) -> int:
        async with self._one_waits:
            while (code := self._forked.poll()) is None:
                await anyio.wait_readable(self._forked.report)
        return code

    def terminate(self) -> None:
        self._forked.terminate()

    def kill(self) -> None:
        self._forked.kill()

    def send_signal(self, signal: signal.Signals) -> None:
        self._forked.send_signal(signal)

    @property
    def pid(self) -> int:
        return self._forked.pid

    @property
    def returncode(self) -> int | None:
        return self._forked.poll()

    @property
    def stdin(self) -> ByteSendStream | None:
        return self._stdin

    @property
    def stdout(self) -> ByteReceiveStream | None:
        return self._stdout

    @property
    def stderr(self) -> ByteReceiveStream | None:
        return self._stderr

    async def aclose(self) -> None:
        """Close the pipes and wait; if that is cancelled it is killed."""
        for stream in (self._stdin, self._stdout, self._stderr):
            if stream is not None:
                await stream.aclose()
        try:
            await self.wait()
        except BaseException:
            self.kill()
            with anyio.CancelScope(shield=True):
                await self.wait()
            raise


async def open_forked(
    arguments: Sequence[str],
    *,
    stdin: Stream = PIPE,
    stdout: Stream = PIPE,
    stderr: Stream = PIPE,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    is_new_session: bool = False,
    max_open_files: int | None = None,
    server: socket.socket | None = None,
) -> ForkedProcess:
    """`fork`, without blocking: the server's own start takes seconds."""
    forked = await anyio.to_thread.run_sync(
        lambda: fork(
            arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            environment=environment,
            folder=folder,
            is_new_session=is_new_session,
            max_open_files=max_open_files,
            server=server,
        )
    )
    return ForkedProcess(forked)


async def start_forked(
    arguments: Sequence[str], stderr: IO[bytes], max_open_files: int | None
) -> ForkedProcess:
    """A `fabstir.cli.host_process.StartFabstir`."""
    return await open_forked(
        arguments,
        stdin=None,
        stderr=stderr,
        is_new_session=True,
        max_open_files=max_open_files,
    )


async def run_forked(
    arguments: Sequence[str],
    *,
    given: bytes = b"",
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    server: socket.socket | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run `fabstir` to its end, with this on its standard input."""
    output = dict[str, bytes]()

    async def read(name: str, stream: ByteReceiveStream | None) -> None:
        assert stream is not None
        output[name] = b"".join([piece async for piece in stream])

    process = await open_forked(arguments, environment=environment, folder=folder, server=server)
    async with process, anyio.create_task_group() as tasks:
        tasks.start_soon(read, "stdout", process.stdout)
        tasks.start_soon(read, "stderr", process.stderr)
        assert process.stdin is not None
        with suppress(anyio.BrokenResourceError):  # it may end before it has read everything
            await process.stdin.send(given)
        await process.stdin.aclose()
    return subprocess.CompletedProcess(arguments, await process.wait(), **output)


class _PipeOut(ByteReceiveStream):
    """What a child writes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._close = weakref.finalize(self, os.close, fd)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.wait_readable(self._fd)
        piece = os.read(self._fd, max_bytes)
        if not piece:
            raise anyio.EndOfStream
        return piece

    async def aclose(self) -> None:
        self._close()


class _PipeIn(ByteSendStream):
    """What a child reads."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._close = weakref.finalize(self, os.close, fd)

    async def send(self, item: bytes) -> None:
        left = memoryview(item)
        while left:
            await anyio.wait_writable(self._fd)
            try:
                left = left[os.write(self._fd, left) :]
            except BrokenPipeError as exc:
                raise anyio.BrokenResourceError from exc

    async def aclose(self) -> None:
        self._close()
