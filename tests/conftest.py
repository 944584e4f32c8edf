"""Fixtures of every kind of test."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings
from platformdirs import user_cache_path
from tests.postgresql import POSTGRESQL, PostgresServer, find_program, open_server
from tests.tables import PRINTED

from fabstir.models import DEMO_MODEL, fetch_model

# How fast a shared machine is says nothing of the code.
settings.register_profile("fabstir", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fabstir")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's file, fetched once per machine: 93 MB, in the user's own cache."""
    return anyio.run(partial(fetch_model, DEMO_MODEL, user_cache_path("fabstir") / "models"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One for all tests that do not harm it; each takes a schema of its own (`url`)."""
    with open_server() as server:
        yield server


@pytest.fixture(params=["sqlite", POSTGRESQL])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the test's own, on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/journal.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.url()


HEAVY_TIMEOUT = 1800.0
"""Seconds, of a test that takes minutes by itself: the others' 300 are for the gate's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--heavy", action="store_true", help="also run what takes minutes")
    parser.addoption("--vllm", help="run the engines' tests with the vLLM in this folder")
    parser.addoption("--gate", action="store_true", help="fail where a needed program is missing")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip by name what needs a program that is not there; in the gate that is a failure."""
    for program in (name for mark in item.iter_markers("needs") for name in mark.args):
        if find_program(program) is None:
            say = pytest.fail if item.config.getoption("--gate") else pytest.skip
            say(f"{program} is not installed: run `make gate-packages`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the full-length tests to their own make targets; each has a short form in the gate.

    What takes long comes first: at the end one worker would be busy with it, and the others idle.
    """
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy and not config.getoption("--heavy"):
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]
    for item in heavy:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(HEAVY_TIMEOUT))
    turns: dict[Path, int] = {}
    for item in items:
        turns[item.path] = min(_turn(item), turns.get(item.path, 2))
    items.sort(key=lambda item: turns[item.path])


def _turn(item: pytest.Item) -> int:
    """Of its file: 0 with a long one, 1 with a chain and often hosts, 2 for the others."""
    if item.get_closest_marker("slow") or item.get_closest_marker("e2e"):
        return 0
    return 1 if "devnet" in getattr(item, "fixturenames", ()) else 2


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of several gives its tables to the process that has the terminal."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tables"] = session.config.stash.get(PRINTED, list[str]())


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any) -> None:
    """Take a worker's tables."""
    lines = getattr(node, "workeroutput", {}).get("tables", [])
    node.config.stash.setdefault(PRINTED, []).extend(lines)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(PRINTED, list[str]()):
        terminalreporter.write_line(line)
