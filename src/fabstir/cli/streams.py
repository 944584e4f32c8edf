"""Standard input, output and error, made complete before anything else uses them."""

from __future__ import annotations

import io
import os
import sys
from typing import Final, Literal, TextIO

from fabstir.primitives.errors import FabstirError

_closed: set[str] = set()
"""Streams that this process was started without."""

_MODES: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class StreamClosed(FabstirError):
    """Standard input or output was closed, and is needed."""

    def __init__(self, name: str) -> None:
        what = {"stdin": "input", "stdout": "output"}[name]
        super().__init__(f"standard {what} is closed: give the command one, or name a file")


def complete_standard_streams() -> None:
    """Open what a service manager or `>&-` closed, and let no letter stop what is written.

    A closed stream becomes the null device. Left closed, the next files and sockets would get its
    number: uvloop then aborts the process, and what a library prints would go into a database.
    """
    for descriptor, (name, mode) in enumerate(_MODES):
        if not _is_open(descriptor):
            _open_null(descriptor)
            _closed.add(name)
        if getattr(sys, name) is None:
            stream = os.fdopen(descriptor, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    for stream in (sys.stdout, sys.stderr):
        _never_fail(stream)


def require_stream(name: Literal["stdin", "stdout"]) -> None:
    """See that a stream that is to carry data was not closed when the process began.

    Raises:
        StreamClosed: what is read from it would be nothing, what is written would be lost.
    """
    if name in _closed:
        raise StreamClosed(name)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open_null(descriptor: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)


def _never_fail(stream: TextIO | io.TextIOWrapper[io.BufferedWriter]) -> None:
    """A terminal or a locale may lack a letter: it is written out."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
