"""What a module of tests measured, printed at the end of the run (by `tests/conftest.py`)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

PRINTED = pytest.StashKey[list[str]]()
"""On the config: the lines of all tables so far."""


@dataclass(slots=True)
class Table:
    """Rows of cells, the first with the columns' names."""

    rows: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])

    def add(self, *cells: object) -> None:
        self.rows.append(tuple(str(cell) for cell in cells))

    def lines(self) -> list[str]:
        widths = [max(len(row[i]) for row in self.rows) for i in range(len(self.rows[0]))]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in self.rows
        ]


@contextmanager
def printed_table(request: pytest.FixtureRequest, title: str, *columns: str) -> Generator[Table]:
    """A table that is printed, once it has a row, at the end of the run."""
    table = Table()
    table.add(*columns)
    yield table
    if num_rows := len(table.rows) - 1:
        lines = request.config.stash.setdefault(PRINTED, [])
        lines += ["", f"{title}: {num_rows}", *table.lines()]
