"""Fixtures of all unit tests."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Undo `configure_logging`, which is for whole processes."""
    root, ours = logging.getLogger(), logging.getLogger("fabstir")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
