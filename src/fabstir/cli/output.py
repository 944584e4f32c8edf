"""How commands show results: rich for people, JSON for programs; errors as one red line.

Nothing else writes to the terminal. Hosts, peers and portals wrote parts of what is shown, so
every text passes through `primitives.text` here, and nothing in it means anything: no markup, no
emoji codes, no escape sequences.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fabstir.cli.context import invocation
from fabstir.primitives.errors import FabstirError
from fabstir.primitives.text import many_lines, one_line, plain_json

_UNFOLDED_CHARS = 100_000
"""Wider than any line of a table: what is no terminal has no edge at which to fold."""

_CONTINUED = "    "
"""Before what follows a line break in a text: it cannot pass for a line of ours."""


class OutputClosed(FabstirError):
    """Nobody reads what is written any more, or it cannot be written."""


class PlainConsole(Console):
    """rich's console without any language of its own in the texts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it stands; what rich would drop without a word is written out."""
        kept = {k: v for k, v in options.items() if k in {"style", "justify", "overflow"}}
        return Text(many_lines(text), **kept)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Whatever a widget made of texts, none of it steers the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(many_lines(segment.text), segment.style)

    def on_broken_pipe(self) -> NoReturn:
        """Called while the error is handled; rich would exit here, and leave sessions open."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


console = PlainConsole()
error_console = PlainConsole(stderr=True)


def show(ctx: typer.Context, data: object, render: Callable[[], RenderableType]) -> None:
    """Print a command's result in the form that was asked for.

    Args:
        data: what --json prints: dataclasses, mappings, sequences, paths and plain values.
        render: makes what people see; called only if it is needed. A str is one line.
    """
    if invocation(ctx).as_json:
        write_json(data, indent=2)
    else:
        with writing_out():
            print_result(console, render())


def write_json(data: object, *, indent: int | None = None) -> None:
    """One JSON value to standard output, on one line unless it is indented."""
    with writing_out():
        text = plain_json(data, default=_to_json, indent=indent)
        typer.echo(text if _can_say(text) else _escaped(text))


def _can_say(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _escaped(text: str) -> str:
    """JSON without any letter beyond ASCII: outside of its strings there is none anyway."""
    return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)


@contextmanager
def writing_out() -> Generator[None]:
    """Name what fails in the block, which writes to standard output.

    Raises:
        OutputClosed: it cannot be written, or its reader has left.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise output_closed(error) from error


def output_closed(error: OSError) -> OutputClosed:
    """What to raise where standard output failed; nothing more is written to it."""
    # Else Python flushes what is left when it exits, and reports that failure once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    reason = error.strerror or type(error).__name__
    return OutputClosed(f"standard output cannot be written: {reason}")


def say(text: str, *, style: str = "") -> None:
    """A line of ours, or several, to standard output."""
    with writing_out():
        console.print(text, style=style)


def say_part(text: str, *, style: str = "") -> None:
    """A piece of a text that goes on: an answer as it streams in."""
    with writing_out():
        console.print(text, style=style, end="", soft_wrap=True)
        console.file.flush()


def print_result(console: PlainConsole, rendered: RenderableType) -> None:
    """Without a line break that is not in it where programs read, or where a text is copied."""
    if isinstance(rendered, str):
        rendered = Text(one_line(rendered, None))
    if isinstance(rendered, Text):
        console.print(rendered, soft_wrap=True)
        return
    if not console.is_terminal:
        console = PlainConsole(file=console.file, width=_UNFOLDED_CHARS)
    # Not cropped: a word that is wider than the terminal is the terminal's to wrap, and copied
    # from there as one.
    console.print(rendered, crop=False)


def table(*columns: str, rows: Sequence[Sequence[RenderableType]]) -> Table:
    """A plain table in the one style that all commands share; nothing is ever cut off.

    A str is one line (see `lines`). On a narrow terminal texts are wrapped between words. A word
    is never: it may be an identifier, which somebody copies. See also `unwrapped`.
    """
    made = Table(box=None, pad_edge=False, header_style="bold")
    cells = [[_cell(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        widths = [_longest_word(row[index]) for row in cells if index < len(row)]
        made.add_column(_cell(column), overflow="fold", min_width=max(widths, default=0))
    for row in cells:
        made.add_row(*row)
    return made


def lines(*texts: str) -> Text:
    """Several texts, a line each: in a cell, or as a result."""
    return Text("\n".join(map(one_line, texts)))


def paragraphs(*texts: str) -> Text:
    """Several texts with line breaks of their own; only the first line of each is not indented."""
    return Text("\n".join(many_lines(text).replace("\n", "\n" + _CONTINUED) for text in texts))


def unwrapped(text: str) -> Text:
    """One line that is no wider than it is, however narrow the terminal: it is copied."""
    return Text(one_line(text), no_wrap=True)


def together(*parts: RenderableType) -> RenderableType:
    """One below the other."""
    return Group(*parts)


def _cell(cell: RenderableType) -> RenderableType:
    return Text(one_line(cell)) if isinstance(cell, str) else cell


def _longest_word(cell: RenderableType) -> int:
    if not isinstance(cell, Text):
        return 0
    if cell.no_wrap:
        return cell.cell_len
    return max(map(cell_len, cell.plain.split()), default=0)


def show_error(text: str) -> None:
    """The cause and the fix, on standard error."""
    note(f"error: {text}", style="red")


def note(text: str, *, style: str = "") -> None:
    """One line on standard error, beside a result."""
    # Not wrapped: it is one line also for a program that reads it, and for who copies it.
    with suppress(BrokenPipeError):  # nobody is left to be told
        error_console.print(Text(one_line(text)), style=style, soft_wrap=True)


def ask_yes(question: str, *, default: bool = False) -> bool:
    """Ask somebody at the terminal."""
    return typer.confirm(one_line(question), default=default)


def ask_hidden(prompt: str, **options: Any) -> str:
    """Ask for what must not be seen. The options are those of `typer.prompt`."""
    return typer.prompt(one_line(prompt), hide_input=True, **options)


class StatusLine:
    """One line on standard error that says what is being done, where somebody sees it."""

    def __init__(self, text: str) -> None:
        from rich.status import Status  # its spinners take time that `--help` has no use for

        self._status = Status(Text(one_line(text)), console=error_console)

    def start(self) -> None:
        """Show it, if standard error is a terminal."""
        if error_console.is_terminal:
            self._status.start()

    def update(self, text: str) -> None:
        """Say something else."""
        self._status.update(Text(one_line(text)))

    def stop(self) -> None:
        """Take it away."""
        self._status.stop()


def show_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """`sys.excepthook`: a bug's traceback, whose texts are strangers' as often as not."""
    whole = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(many_lines(whole))


def _to_json(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
