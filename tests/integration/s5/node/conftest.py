"""Nodes in this process, on free ports, each in a folder of its own."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
