"""How commands show results: rich for people, JSON for programs; errors as one red line."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from fabstir.cli.context import invocation
from fabstir.primitives.errors import FabstirError

_UNFOLDED_CHARS = 100_000
"""Wider than any line of a table: what is no terminal has no edge at which to fold."""

console = Console()
error_console = Console(stderr=True)


def show(ctx: typer.Context, data: object, render: Callable[[], RenderableType]) -> None:
    """Print a command's result in the form that was asked for.

    Args:
        data: what --json prints: dataclasses, mappings, sequences, paths and plain values.
        render: makes what people see; called only if it is needed. A text is shown as it is,
            since hosts and peers wrote parts of it: no markup in it means anything.
    """
    with writing_out():
        if invocation(ctx).as_json:
            typer.echo(json.dumps(data, default=_to_json, indent=2, ensure_ascii=False))
        else:
            print_result(console, render())


@contextmanager
def writing_out() -> Generator[None]:
    """Name what fails in the block, which writes to standard output.

    Raises:
        FabstirError: it cannot be written, or its reader has left.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # Else Python flushes what is left when it exits, and reports that failure once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = error.strerror or type(error).__name__
        raise FabstirError(f"standard output cannot be written: {reason}") from error


def print_result(console: Console, rendered: RenderableType) -> None:
    """Without a line break that is not in it where programs read, or where a text is copied."""
    if isinstance(rendered, str):
        console.print(rendered, markup=False, soft_wrap=True)
        return
    if not console.is_terminal:
        console = Console(file=console.file, width=_UNFOLDED_CHARS)
    # Not cropped: a word that is wider than the terminal is the terminal's to wrap, and copied
    # from there as one.
    console.print(rendered, markup=False, crop=False)


def table(*columns: str, rows: Sequence[Sequence[RenderableType]]) -> Table:
    """A plain table in the one style that all commands share; nothing is ever cut off.

    On a narrow terminal texts are wrapped between words. A word is never: it may be an identifier,
    which somebody copies. A Text with `no_wrap` is one word.
    """
    made = Table(box=None, pad_edge=False, header_style="bold")
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    for index, column in enumerate(columns):
        widths = [_longest_word(row[index]) for row in cells if index < len(row)]
        made.add_column(column, overflow="fold", min_width=max(widths, default=0))
    for row in cells:
        made.add_row(*row)
    return made


def _longest_word(cell: RenderableType) -> int:
    if not isinstance(cell, Text):
        return 0
    if cell.no_wrap:
        return cell.cell_len
    return max(map(cell_len, cell.plain.split()), default=0)


def show_error(text: str) -> None:
    """The cause and the fix, on standard error."""
    # Not wrapped: it is one line also for a program that reads it.
    error_console.print(f"error: {text}", style="red", markup=False, soft_wrap=True)


def _to_json(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
