"""Nodes in this process, that talk over real sockets on free ports."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
