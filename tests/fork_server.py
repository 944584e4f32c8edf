"""A process that has imported what `fabstir` imports, and forks a `fabstir` for each request.

    python -P tests/fork_server.py FD MODULE...

Importing takes a start of `fabstir serve` four seconds of processor time, and the tests start some
two hundred: `tests/forked.py` starts this server once, says what it imports, and asks it for every
other one, over a socket (FD). What is forked is a process like any other, with arguments,
environment, streams, working folder, signals and an exit status of its own, which runs the
function of the console script. It has no threads to lose: nothing here starts one, and numpy is
kept from it.

A request is one JSON object and four descriptors: a pipe to which the server writes the child's
process id and, once it has ended, its exit status; and standard input, output and error.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal, TextIO, TypedDict

MAX_REQUEST_BYTES = 1 << 18
"""Arguments and environment; a message between two processes has a limit of about this size."""

_PR_SET_PDEATHSIG = 1


class Request(TypedDict):
    """What a child is to be.

    Attributes:
        arguments: those after the program's name.
        max_open_files: its limit; None: the server's.
    """

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    is_new_session: bool
    max_open_files: int | None


def main() -> None:
    """Serve until the tests end; in a child, run its command line."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread would be lost in a child"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    gc.collect()
    gc.freeze()  # the collector writes to what it visits, and memory that is written is copied
    if _fork_for_each(requests):
        from fabstir.cli import main as run_command_line

        run_command_line()


def _fork_for_each(requests: socket.socket) -> bool:
    """True in a child, which is ready to run; False once there is nobody to ask."""
    server, children = os.getpid(), dict[int, tuple[int, int]]()
    while True:
        for ready in select.select([requests.fileno(), *children], [], [])[0]:
            if ready in children:
                _report_end(ready, *children.pop(ready))
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 4)
            if not message:
                return False
            report, *streams = descriptors
            pid = os.fork()
            if not pid:
                requests.close()
                _become(json.loads(message), streams, server)
                return True
            os.write(report, b"%d\n" % pid)
            for stream in streams:
                os.close(stream)
            children[os.pidfd_open(pid)] = (pid, report)


def _report_end(handle: int, pid: int, report: int) -> None:
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # nobody wants to know
        os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
    os.close(report)
    os.close(handle)


def _become(request: Request, streams: list[int], server: int) -> None:
    """Make a child of the server what a process that was started by itself is."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it died before the kernel was asked
        os._exit(1)
    if request["is_new_session"]:
        os.setsid()
    if (limit := request["max_open_files"]) is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]
    sys.stdin = sys.__stdin__ = _text(0, sys.stdin, "r")
    sys.stdout = sys.__stdout__ = _text(1, sys.stdout, "w", is_by_line=os.isatty(1))
    sys.stderr = sys.__stderr__ = _text(2, sys.stderr, "w", is_by_line=True)


def _text(stream: int, old: TextIO, mode: Literal["r", "w"], *, is_by_line: bool = False) -> TextIO:
    """As Python opens a standard stream: the old one remembers whether what it had can seek."""
    return open(
        stream,
        mode,
        buffering=1 if is_by_line else -1,
        encoding=old.encoding,
        errors=old.errors,
        closefd=False,
    )


if __name__ == "__main__":
    main()
