"""Fixtures of every kind of test."""

from functools import partial
from pathlib import Path

import anyio
import pytest
from platformdirs import user_cache_path

from fabstir.models import DEMO_MODEL, fetch_model


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's file, fetched once per machine: 93 MB, in the user's own cache."""
    return anyio.run(partial(fetch_model, DEMO_MODEL, user_cache_path("fabstir") / "models"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--heavy", action="store_true", help="also run what takes minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the full-length tests to their own make targets; each has a short form in the gate."""
    if config.getoption("--heavy"):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]
