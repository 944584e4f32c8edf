"""Progress bars on standard error, for people only: never in a pipe, a log or beside --json."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from fabstir.cli.context import invocation
from fabstir.cli.output import error_console
from fabstir.primitives.text import one_line

Advance = Callable[[int, int | None], None]
"""Gets what is done so far and the whole, in bytes or in things; None: nobody knows the whole."""


@contextmanager
def bar(ctx: typer.Context, what: str, *, in_bytes: bool = True) -> Generator[Advance]:
    """A bar for the length of the block, if somebody is there to see it."""
    if invocation(ctx).as_json or not error_console.is_terminal:
        yield _unseen
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
    columns += [DownloadColumn(), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=error_console, transient=True) as shown:
        task = shown.add_task(one_line(what), total=None)

        def advance(done: int, total: int | None) -> None:
            shown.update(task, completed=done, total=total)

        yield advance


def _unseen(_done: int, _total: int | None) -> None:
    """Nobody looks."""
