"""What a module of tests measured, printed when its tests are over."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from _pytest.capture import CaptureManager
from _pytest.terminal import TerminalReporter


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
    """A table that is printed, past pytest's capture, when the block is left."""
    table = Table()
    table.add(*columns)
    yield table
    manager = request.config.pluginmanager
    capture, terminal = manager.getplugin("capturemanager"), manager.getplugin("terminalreporter")
    assert isinstance(capture, CaptureManager)
    assert isinstance(terminal, TerminalReporter)
    with capture.global_and_fixture_disabled():
        for line in ("", f"{title}: {len(table.rows) - 1}", *table.lines()):
            terminal.write_line(line)
