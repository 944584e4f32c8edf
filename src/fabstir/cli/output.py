"""How commands show results: rich for people, JSON for programs; errors as one red line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from fabstir.cli.context import invocation

console = Console()
error_console = Console(stderr=True)


def show(ctx: typer.Context, data: object, render: Callable[[], RenderableType]) -> None:
    """Print a command's result in the form that was asked for.

    Args:
        data: what --json prints: dataclasses, mappings, sequences, paths and plain values.
        render: makes what people see; called only if it is needed. A text is shown as it is,
            since hosts and peers wrote parts of it: no markup in it means anything.
    """
    if invocation(ctx).as_json:
        typer.echo(json.dumps(data, default=_to_json, indent=2, ensure_ascii=False))
    else:
        rendered = render()
        # A text is not wrapped: identifiers and commands are copied from it.
        console.print(rendered, markup=False, soft_wrap=isinstance(rendered, str))


def table(*columns: str, rows: Sequence[Sequence[RenderableType]]) -> Table:
    """A plain table in the one style that all commands share; nothing is ever cut off."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


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
