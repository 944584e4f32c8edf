"""Nodes in this process, on free ports, each in a folder of its own."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from fabstir.config import Settings, load_settings
from fabstir.telemetry import configure_logging

T = TypeVar("T")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def s5_settings(folder: Path, **overrides: str) -> Settings:
    """A node's settings; `overrides` are of the section [s5]."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.toml"
    file.touch()
    chosen = {"s5.port": "0", "s5.repair_seconds": "0.05", "network.allow_private": "true"}
    chosen |= {f"s5.{name}": value for name, value in overrides.items()}
    chosen |= {"paths.data_dir": str(folder / "data"), "metrics.port": "0"}
    return load_settings(file=file, environ={}, overrides=chosen)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def eventually(look: Callable[[], Awaitable[T | None]], *, timeout: float = 20) -> T:
    """The first thing that `look` finds (anything true), or TimeoutError."""
    with anyio.fail_after(timeout):
        while not (found := await look()):
            await anyio.sleep(0.02)
    return found


@pytest.fixture
def quiet() -> Iterator[None]:
    """After commands that ran in this process, and set up its logging."""
    yield
    configure_logging("warning")
