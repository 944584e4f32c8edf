"""Which engine answers for which model, and what keeps a pool from opening."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.idle_models import IdleEngine

from fabstir.engines import Engine, EngineState, open_pool
from fabstir.engines.memory import usable_memory
from fabstir.primitives.errors import ConfigError, EngineUnavailable

pytestmark = pytest.mark.anyio

FILE_BYTES = 700_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def accept(_files: Mapping[str, Path]) -> None:
    """There is room for everything."""


class Driver:
    """Opens engines; `opened` has the names of those that are open."""

    def __init__(self, folder: Path, refused: str = "") -> None:
        self.opened: list[str] = []
        self._folder = folder
        self._refused = refused

    async def locate(self, name: str) -> Path:
        path = self._folder / name
        async with await anyio.open_file(path, "wb") as file:
            await file.truncate(FILE_BYTES)  # takes no room on the disk
        return path

    @asynccontextmanager
    async def open(self, name: str, path: Path) -> AsyncGenerator[Engine]:
        if name == self._refused:
            raise EngineUnavailable(f"{name} does not load")
        self.opened.append(name)
        try:
            yield IdleEngine(path.name, state=EngineState.READY)
        finally:
            self.opened.remove(name)


async def test_each_model_has_its_own_engine(tmp_path: Path) -> None:
    driver = Driver(tmp_path)

    async with open_pool(("a", "b"), driver.locate, driver.open, require_room=accept) as pool:
        for name in ("a", "b"):
            async with pool.acquire(name) as engine:
                assert engine.info.model == pool.info(name).model == name
                assert pool.state(name) is EngineState.READY
        with pytest.raises(KeyError):
            pool.info("c")

    assert driver.opened == []


async def test_one_that_does_not_load_leaves_none_open(tmp_path: Path) -> None:
    driver = Driver(tmp_path, refused="b")

    with pytest.raises(EngineUnavailable, match="b does not load"):
        async with open_pool(("a", "b"), driver.locate, driver.open, require_room=accept):
            pytest.fail("it opened")

    assert driver.opened == []


async def test_models_that_do_not_fit_together_are_refused_before_one_is_loaded(
    tmp_path: Path,
) -> None:
    driver = Driver(tmp_path)

    async def refuse(files: Mapping[str, Path]) -> None:
        assert all(path.stat().st_size == FILE_BYTES for path in files.values())
        raise ConfigError(f"no room for {', '.join(files)}")

    with pytest.raises(ConfigError, match="no room for a, b"):
        async with open_pool(("a", "b"), driver.locate, driver.open, require_room=refuse):
            pytest.fail("it opened")

    assert driver.opened == []


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 900 kB\nMemAvailable:   800 kB\n"}, 800 * 1024),
        ({"proc/meminfo": "MemAvailable: 800 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 819_200),
        ({"proc/meminfo": "MemAvailable: 800 kB\n", "sys/fs/cgroup/memory.max": "5000\n"}, 5000),
        (
            {
                "proc/self/cgroup": "5:cpu:/docker/abc\n3:memory:/docker/abc\n",
                "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "7000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            7000,
        ),
        (
            {
                "proc/self/cgroup": "0::/system.slice/fabstir.service\n",
                "sys/fs/cgroup/system.slice/memory.max": "6000\n",
            },
            6000,
        ),
    ],
)
def test_a_control_group_may_allow_less_than_the_machine_has(
    tmp_path: Path, files: dict[str, str], usable: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert usable_memory(tmp_path) == usable
