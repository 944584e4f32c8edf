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
